"""Options that several commands have. Nothing heavy is imported here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

CONFIG_VARIABLE = "SEGNODE_CONFIG"

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", help="Configuration file.", envvar=CONFIG_VARIABLE),
]
ModelsDirOption = Annotated[
    list[Path] | None,
    typer.Option("--models-dir", help="A folder of models, or one model; repeat for more."),
]
