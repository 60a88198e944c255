"""``segnode doctor``: do this machine and its neighbours do what the configuration expects of them?

Every check ends in one sentence. Nothing is stored anywhere but, where asked for, one synthetic
instance in the node itself.
"""

from __future__ import annotations

import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filewriter import dcmwrite
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from node.cli.opening import is_file_missing
from node.cli.options import ConfigOption
from node.cli.printing import JsonOption, plain, print_json
from node.config import NodeConfig, WorkConfig
from node.database.engine import reading
from node.deliver.destination import Health, Probe
from node.deliver.dimse import DimseDestination
from node.deliver.send_folder import SendState, send_folder
from node.domain.errors import JobFailed
from node.domain.health import HealthCode
from node.domain.peers import Peer, match_peer
from node.domain.tls import ClientTls, ServerTls
from node.domain.uids import uid_from
from node.infer.assets import check_assets
from node.infer.devices import choose_devices
from node.infer.registry import ModelSpec
from node.modelstore.catalog import shortcomings
from node.pipeline.accept import spool_settings
from node.pipeline.build import Plan, destinations_of, plan
from node.process.health import CERTIFICATE_SOON, NodeHealth, tls_of
from node.process.watch import trial_notice
from node.receive.syntaxes import decodable_syntaxes
from node.spool.files import SpaceGuard
from node.tls import expiry_of, mistakes_of
from node.words import tell_finding, tell_what_to_do

_CONNECT_S = 3.0
_EXPECTED_CODECS = (
    uid.JPEGBaseline8Bit, uid.JPEGLosslessSV1, uid.JPEGLSLossless, uid.JPEG2000Lossless,
    uid.RLELossless,
)  # fmt: skip
_ANY_HOST = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104 - not bound here


def doctor(
    sends: Annotated[
        bool, typer.Option("--send", help="Also store one synthetic instance in the node itself.")
    ] = False,
    notify: Annotated[
        bool,
        typer.Option(
            "--notify", help="Also tell everybody of the configuration that it is a test."
        ),
    ] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check this machine, the node, and every destination; exits 1 when something is bad."""
    checks = []
    for name, probe in _examine(plan(config), sends=sends, notifies=notify):
        checks.append({"name": name, "health": probe.health.value, "sentence": probe.sentence})
        if not as_json:
            typer.echo(plain(f"{probe.health.value:8} {name}: {probe.sentence}"))
    if as_json:
        print_json(checks)
    if any(check["health"] == Health.BAD for check in checks):
        raise typer.Exit(1)


def _examine(plan: Plan, *, sends: bool, notifies: bool) -> Iterator[tuple[str, Probe]]:
    """Every check by its name, as it is done.

    Args:
        sends: Whether to store one synthetic secondary capture in the node itself.
        notifies: Whether to send a test to every notifier.
    """
    config = plan.config
    version = ".".join(map(str, sys.version_info[:3]))
    yield "python", Probe.good(f"{version} at {sys.executable}")
    yield "codecs", _ask_codecs()
    yield "devices", _ask_devices(config.work)
    yield "disk", _ask_disk(plan)
    yield "database", _ask_database(plan)
    yield from _ask_health(plan)
    for model in {rule.model.name: rule.model for rule in plan.rules}.values():
        yield f"model {model.name}", _ask_model(model, config)
    for name, unusable in plan.found.unusable.items():
        yield f"model {name}", Probe.bad(str(unusable))
    dimse = _ask_port(config.dimse.host, config.dimse.port)
    yield "dimse", dimse
    yield "web", _ask_port(config.web.host, config.web.port)
    for at, tls in tls_of(config):
        yield at, _ask_certificates(tls, at)
    if sends:
        runs = dimse.health is Health.GOOD
        yield "store", _ask_store(config) if runs else Probe.warning("the node does not run")
    for name, destination in destinations_of(config).items():
        yield f"destination {name}", destination.probe()
    for name, notifier in config.notify.items() if notifies else ():
        told = notifier.send([trial_notice(datetime.now(UTC).timestamp())])
        yield f"notify {name}", Probe.good("told") if told.is_told else Probe.bad(told.sentence)


def _ask_model(model: ModelSpec, config: NodeConfig) -> Probe:
    """Whether a model could run: its files, each held to its hash, their licences, its libraries."""
    found = list(shortcomings(model, config.weights_dir, config.accept_licences))
    if not found:
        try:
            check_assets(model, config.weights_dir)
        except JobFailed as error:
            found = [error.reason]
    if found:
        return Probe.bad("; ".join(found))
    count = len(model.files) + len(model.weights)
    sentence = f"{count} files are there and the right ones" if count else "needs no other files"
    return Probe.good(sentence)


def _ask_devices(work: WorkConfig) -> Probe:
    """Where models run; a GPU that the configuration names has to be here."""
    devices = choose_devices(work.devices, work.workers)
    return Probe.bad(devices.missing) if devices.missing else Probe.good(devices.sentence)


def _ask_codecs() -> Probe:
    syntaxes = decodable_syntaxes()
    missing = [codec.name for codec in _EXPECTED_CODECS if codec not in syntaxes]
    if missing:
        return Probe.warning(
            f"cannot decode {', '.join(missing)}: such instances are not negotiated"
        )
    return Probe.good(f"{len(syntaxes)} transfer syntaxes decode")


def _ask_disk(plan: Plan) -> Probe:
    folder = plan.config.data_dir
    if not folder.is_dir():
        return Probe.warning(f"{folder} is not there yet: segnode serve makes it")
    if not os.access(folder, os.W_OK | os.X_OK):
        return Probe.bad(f"{folder} cannot be written")
    shortage = SpaceGuard(folder, spool_settings(plan.config).watermark).shortage
    if shortage:
        return Probe.bad(f"{shortage}: nothing is taken in")
    free_gb = shutil.disk_usage(folder).free / 1e9
    return Probe.good(f"{free_gb:.1f} GB free in {folder}")


def _ask_database(plan: Plan) -> Probe:
    if is_file_missing(plan.config.database_url):
        return Probe.warning("not there yet: segnode serve makes it")
    engine = plan.open_engine()
    try:
        with reading(engine) as connection:
            connection.execute(select(1))
    except SQLAlchemyError as error:
        why = type(error).__name__
        return Probe.bad(f"cannot be read ({why}): see database in the configuration")
    finally:
        engine.dispose()
    return Probe.good(f"{engine.dialect.name} answers")


def _ask_health(plan: Plan) -> Iterator[tuple[str, Probe]]:
    """What the node says of itself; disk, database and certificates are asked for beside it."""
    if is_file_missing(plan.config.database_url):
        return
    engine = plan.open_engine()
    try:
        space = SpaceGuard.of(spool_settings(plan.config))
        health = NodeHealth(engine, space, plan.config).health()
    except SQLAlchemyError:  # told as the database's
        return
    finally:
        engine.dispose()
    asked = (HealthCode.DISK, HealthCode.DATABASE, HealthCode.CERTIFICATE)
    for finding in health.findings:
        if finding.code not in asked:
            name = f"{finding.code} {finding.subject}".rstrip()
            yield name, Probe.warning(f"{tell_finding(finding)}: {tell_what_to_do(finding)}")


def _ask_port(host: str, port: int) -> Probe:
    """Whether our own node listens; one that does not run is worth a warning only."""
    try:
        with socket.create_connection((_ANY_HOST.get(host, host), port), _CONNECT_S):
            pass
    except OSError:
        return Probe.warning(f"nobody listens on {host}:{port}: segnode serve does")
    return Probe.good(f"{host}:{port} is listened on")


def _ask_certificates(tls: ServerTls | ClientTls, at: str) -> Probe:
    """Whether the files can be used, and for how long."""
    if found := mistakes_of(tls, at):
        return Probe.bad("; ".join(f"{place} {sentence}" for place, sentence in found))
    if not tls.certificate:
        return Probe.good("no certificate of this node is shown there")
    expiry = expiry_of(Path(tls.certificate))
    ends = f"the certificate of {expiry.subject} ends {expiry.at:%Y-%m-%d}"
    left = expiry.at - datetime.now(UTC)
    if left <= timedelta(0):
        return Probe.bad(f"{ends}: nobody accepts it any more")
    if left < CERTIFICATE_SOON:
        return Probe.warning(f"{ends}: renew it; the node reads a renewed file by itself")
    if Path(tls.key).stat().st_mode & 0o077:
        return Probe.warning(f"others can read {tls.key}: chmod 600")
    return Probe.good(ends)


def _ask_store(config: NodeConfig) -> Probe:
    """One synthetic instance to the node itself, always the same: twice is a duplicate."""
    if config.dimse.tls is not None and config.dimse.tls.port is None:
        return Probe.warning("the port speaks TLS alone: try it with segnode send --tls-ca")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "doctor.dcm")
        dcmwrite(path, _secondary_capture(), enforce_file_format=True)
        host = _ANY_HOST.get(config.dimse.host, config.dimse.host)
        title = config.ae_titles[0]
        node = DimseDestination(
            name="node",
            peer=Peer(name="node", ae_title=title, host=host, port=config.dimse.port),
            calling_ae_title=_title_to_call_with(config),
            connect_timeout_s=_CONNECT_S,
        )
        (report,) = send_folder(node, path)
    if report.is_stored:
        return Probe.good("a synthetic instance was stored")
    if report.state is SendState.NOT_SENT:
        return Probe.warning(f"{report.comment}; this machine may be none of the peers")
    status = "" if report.status is None else f" 0x{report.status:04X}"
    return Probe.bad(f"{report.state.value}{status}: {report.comment}".rstrip(": "))


def _title_to_call_with(config: NodeConfig) -> str:
    """The title of a peer that may call from this machine, else the node's own."""
    for peer in config.peers.values():
        if match_peer([peer], peer.ae_title, "127.0.0.1") is not None:
            return peer.ae_title
    return config.ae_titles[0]


def _secondary_capture() -> Dataset:
    """A square of grey that no rule on CT or MR takes. Source: PS3.3 A.8"""
    image = Dataset()
    image.SOPClassUID = uid.SecondaryCaptureImageStorage
    image.SOPInstanceUID = uid_from("segnode doctor", "instance")
    image.StudyInstanceUID = uid_from("segnode doctor", "study")
    image.SeriesInstanceUID = uid_from("segnode doctor", "series")
    image.PatientName, image.PatientID = "Doctor^Segnode", "SEGNODE-DOCTOR"
    image.PatientBirthDate = image.PatientSex = ""
    image.StudyDate = image.StudyTime = image.StudyID = image.AccessionNumber = ""
    image.ReferringPhysicianName = ""
    image.Modality, image.ConversionType = "OT", "SYN"
    image.SeriesDescription = "test of segnode doctor"
    image.SeriesNumber = image.InstanceNumber = 1
    image.Rows = image.Columns = 16
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.BitsAllocated, image.BitsStored, image.HighBit = 8, 8, 7
    image.PixelRepresentation = 0
    image.PixelData = b"\x80" * (16 * 16)
    image["PixelData"].VR = "OB"
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    return image
