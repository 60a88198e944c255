"""``segnode models pull``: the files of models, brought because somebody said so."""

from __future__ import annotations

import sys
import time
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Annotated

import typer

from node.cli.options import ConfigOption, ModelsDirOption, known_model
from node.cli.printing import say, tell_set_aside
from node.domain.errors import ConfigInvalid, NodeError
from node.infer.assets import Asset
from node.modelstore.catalog import ModelsHere, models_here

if TYPE_CHECKING:
    from node.modelstore.pull import WeightsSource

# what fetches is imported where it is used: a list of models must not wait for it

_LOOK_S = 0.2  # between two looks at a growing file on a terminal
_LINE_S = 10.0  # between two lines about it in a log


def pull_models(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="NAME...", help="Names of models.")
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Every model that needs files from elsewhere.")
    ] = False,
    source: Annotated[
        str | None,
        typer.Option("--from", help="A folder or URL that holds the files; nothing else is asked."),
    ] = None,
    models_dir: ModelsDirOption = None,
    config: ConfigOption = None,
) -> None:
    """Fetch configuration, code and weights of models, each file held to its hash."""
    here = models_here(config, models_dir)
    tell_set_aside(here.found.unusable)
    chosen = _chosen(names or [], here, everything=everything)
    from node.modelstore.pull import WeightsSource

    if source is not None:
        origin = WeightsSource.parse(source, "--from")
    elif here.config.weights_mirror:
        origin = WeightsSource.parse(here.config.weights_mirror, "weights_mirror")
    else:
        origin = WeightsSource()
    has_failed = False
    for name in chosen:
        try:
            _pull(name, here, origin)
        except NodeError as error:
            if len(chosen) == 1:
                raise
            say(f"{name}: {error}")
            has_failed = True
    if has_failed:
        raise typer.Exit(1)


def _pull(name: str, here: ModelsHere, origin: WeightsSource) -> None:
    import requests

    from node.modelstore.download import Download
    from node.modelstore.pull import licence_sentences, pull

    model = here.models[name]
    if not model.files and not model.weights:
        typer.echo(f"{name}: needs no files from elsewhere")
        return
    for sentence in licence_sentences(model, here.config.accept_licences):
        say(f"{name}: {sentence}")
    meter = Meter()
    with requests.Session() as session:
        download = Download(session=session, progress=meter)
        brought = pull(model, here.config.weights_dir, origin, download, meter)
    folder = here.config.weights_dir / name
    count = len(model.files) + len(model.weights)
    what = f"{brought} of {count} files fetched" if brought else f"all {count} files were there"
    typer.echo(f"{name}: {what}, each is the right one: {folder}")


def _chosen(names: list[str], here: ModelsHere, *, everything: bool) -> list[str]:
    if everything == bool(names):
        raise ConfigInvalid([("NAME", "name models, or give --all")])
    if everything:
        return [name for name, model in sorted(here.models.items()) if model.files or model.weights]
    return list(dict.fromkeys(known_model(name, here).name for name in names))


class Meter:
    """Shows on stderr how files grow: one line that changes, or in a log a line now and then."""

    def __init__(self) -> None:
        self._is_terminal = sys.stderr.isatty()
        self._name = ""
        self._done = self._begun = 0
        self._total: int | None = None
        self._since = self._shown_at = 0.0

    def starts(self, asset: Asset, place: str) -> None:
        self._name = PurePosixPath(asset.path).name
        say(f"{asset.path} from {place}")

    def begin(self, done_bytes: int, total_bytes: int | None) -> None:
        self._done = self._begun = done_bytes
        self._total = total_bytes
        self._since = self._shown_at = time.monotonic()
        if done_bytes:
            say(f"{self._name}: goes on after {_size(done_bytes)}")

    def advance(self, count_bytes: int) -> None:
        self._done += count_bytes
        now = time.monotonic()
        if now - self._shown_at >= (_LOOK_S if self._is_terminal else _LINE_S):
            self._shown_at = now
            self._show()

    def ends(self, asset: Asset, *, was_there: bool) -> None:
        if was_there:
            say(f"{asset.path}: there already")
            return
        self._show()
        if self._is_terminal:
            typer.echo("", err=True)

    def _show(self) -> None:
        took_s = max(time.monotonic() - self._since, 1e-3)
        rate = f"{(self._done - self._begun) / 1e6 / took_s:.1f} MB/s"
        done = _size(self._done)
        if self._total:
            done += f" of {_size(self._total)}, {100 * self._done / self._total:.0f} %"
        text = f"{self._name}: {done}, {rate}"
        if self._is_terminal:
            sys.stderr.write(f"\r{text}\x1b[K")
            sys.stderr.flush()
        else:
            say(text)


def _size(count_bytes: int) -> str:
    return (
        f"{count_bytes / 1e3:.0f} kB" if count_bytes < 1_000_000 else f"{count_bytes / 1e6:.1f} MB"
    )
