"""Arguments and options that several commands have. Nothing heavy is imported here."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from node.domain.errors import ConfigInvalid

if TYPE_CHECKING:
    from node.infer.registry import ModelSpec
    from node.modelstore.catalog import ModelsHere

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", help="Configuration file.", envvar="SEGNODE_CONFIG"),
]
ModelsDirOption = Annotated[
    list[Path] | None,
    typer.Option("--models-dir", help="A folder of models, or one model; repeat for more."),
]
LimitOption = Annotated[int, typer.Option("--limit", min=1, help="How many at most.")]
AfterOption = Annotated[
    str | None,
    typer.Option("--after", help="The page after one that ended so: it says what to put here."),
]
Number = Annotated[int, typer.Argument(metavar="ID", help="Number in the list.")]
ModelName = Annotated[str, typer.Argument(metavar="NAME", help="Name of a model.")]


def known_model(name: str, here: ModelsHere) -> ModelSpec:
    """The model of this name.

    Raises:
        BadParameter: There is none.
        ConfigInvalid: It cannot be used.
    """
    why_not = here.found.why_not(name)
    if name in here.found.unusable:
        raise ConfigInvalid([("NAME", why_not)])
    if why_not:
        raise typer.BadParameter(why_not, param_hint="NAME")
    return here.models[name]


def require_known(kind: str, name: str, known: Collection[str], option: str) -> None:
    """Refuse a name that nothing has."""
    if name not in known:
        there_are = ", ".join(known) or "none is configured"
        raise typer.BadParameter(f"no {kind} {name!r}; there are: {there_are}", param_hint=option)
