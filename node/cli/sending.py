"""``segnode send``: a folder by C-STORE, with a report per instance."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from node.cli.options import ConfigOption
from node.cli.printing import JsonOption, plain, print_json, say, status_code
from node.deliver.dimse import DimseDestination
from node.deliver.send_folder import SendReport, send_folder
from node.domain.peers import Peer, is_ae_title
from node.domain.settings import SettingsInvalid
from node.domain.tls import PeerTls
from node.tls import mistakes_of


def send(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A folder, or one file.")],
    target: Annotated[str, typer.Argument(metavar="HOST:PORT", help="A Storage SCP.")],
    calling: Annotated[str, typer.Option("--aet", help="Our AE title.")] = "SEGNODE",
    called: Annotated[str, typer.Option("--aec", help="The peer's AE title.")] = "ANY-SCP",
    answer_timeout_s: Annotated[
        float, typer.Option("--timeout", min=0.1, help="Longest wait for an answer, in seconds.")
    ] = 60.0,
    tls_ca: Annotated[
        Path | None, typer.Option("--tls-ca", help="Speak TLS; trust this authority.")
    ] = None,
    tls_certificate: Annotated[
        Path | None,
        typer.Option("--tls-certificate", help="Show this certificate; with --tls-key."),
    ] = None,
    tls_key: Annotated[Path | None, typer.Option("--tls-key", help="Its key.")] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Send every instance of a folder by C-STORE, and say of each what became of it."""
    del config  # accepted everywhere, so that one command line serves all commands
    host, port = _address(target)
    if not folder.exists():
        raise typer.BadParameter(f"{folder} is not there", param_hint="FOLDER")
    for option, title in (("--aet", calling), ("--aec", called)):
        if not is_ae_title(title):
            raise typer.BadParameter("1 to 16 printable characters", param_hint=option)
    destination = DimseDestination(
        name=target,
        peer=Peer(
            name=target,
            ae_title=called,
            host=host,
            port=port,
            tls=_tls(tls_ca, tls_certificate, tls_key),
        ),
        calling_ae_title=calling,
        negotiate_timeout_s=answer_timeout_s,
        answer_timeout_s=answer_timeout_s,
    )
    reports = []
    for report in send_folder(destination, folder):
        reports.append(report)
        if not as_json:
            typer.echo(_line(report))
    if as_json:
        print_json([asdict(report) for report in reports])
    counts = Counter(report.state.value for report in reports)
    say(", ".join(f"{number} {state}" for state, number in counts.items()) or "nothing to send")
    if not reports or not all(report.is_stored for report in reports):
        raise typer.Exit(1)


def _tls(ca: Path | None, certificate: Path | None, key: Path | None) -> PeerTls | None:
    files = {"ca": ca, "certificate": certificate, "key": key}
    given = {name: str(path) for name, path in files.items() if path is not None}
    if not given:
        return None
    try:
        tls = PeerTls(**given)
    except SettingsInvalid as invalid:
        name, sentence = invalid.mistakes[0]
        raise typer.BadParameter(sentence, param_hint=f"--tls-{name}") from None
    for place, sentence in mistakes_of(tls, "tls"):
        raise typer.BadParameter(sentence, param_hint=f"--{place.replace('.', '-')}")
    return tls


def _address(target: str) -> tuple[str, int]:
    host, _, port = target.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise typer.BadParameter(f"{target!r} is not HOST:PORT", param_hint="HOST:PORT")
    return host.strip("[]"), int(port)


def _line(report: SendReport) -> str:
    status = status_code(report.status)
    words = (f"{report.state.value:10}", f"{status:6}", str(report.path), report.comment)
    return plain("  ".join(words)).rstrip()
