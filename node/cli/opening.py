"""A node's database as the command line opens it, beside a node that may be running."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Engine, inspect
from sqlalchemy.exc import DBAPIError

from node.cli.printing import say
from node.config import NodeConfig, glance
from node.database.engine import open_engine
from node.domain.errors import NodeError
from node.pipeline.build import Plan, plan
from node.spool.tables import series


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenNode:
    """A checked configuration and the database that it names."""

    plan: Plan
    engine: Engine


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenNode:
    """Where a node keeps what it has, and its database, for who needs no rule and no destination."""

    config: NodeConfig
    engine: Engine


@contextmanager
def look_at_node(config: Path | None) -> Iterator[SeenNode]:
    """As ``open_node``, by a configuration that need not be right: a node that runs goes by another.

    Raises:
        ConfigInvalid: It does not say where the node keeps what it has.
        NodeError: As ``open_node``.
    """
    seen, mistakes = glance(config, os.environ)
    if mistakes:
        say(f"the configuration has mistakes, the first at {mistakes[0][0]}: segnode check-config")
    with _opened(seen) as engine:
        yield SeenNode(config=seen, engine=engine)


@contextmanager
def open_node(config: Path | None) -> Iterator[OpenNode]:
    """The database of a node that was served before; nothing is made or migrated.

    Raises:
        ConfigInvalid: The configuration cannot be used.
        NodeError: No node was ever served there, or the database cannot be reached.
    """
    checked = plan(config)
    with _opened(checked.config) as engine:
        yield OpenNode(plan=checked, engine=engine)


@contextmanager
def _opened(config: NodeConfig) -> Iterator[Engine]:
    engine = open_engine(config.database_url)
    try:
        if not is_file_missing(config.database_url) and _has_tables(engine):
            yield engine
            return
    finally:
        engine.dispose()
    raise NodeError(
        f"no node has run in {config.data_dir} yet: start one with segnode serve, "
        "or name its configuration with --config"
    )


def is_file_missing(database_url: str) -> bool:
    """Whether a database would be made by whoever connects to it."""
    path = database_url.removeprefix("sqlite:///")
    return path != database_url and not Path(path).is_file()


def _has_tables(engine: Engine) -> bool:
    try:
        return inspect(engine).has_table(series.name)
    except DBAPIError as error:
        raise NodeError(f"the database cannot be reached: {type(error.orig).__name__}") from None
