"""Every statement that is sent to a database while something runs, with the work that it was.

Work is counted by the database, so that no test needs a clock: on SQLite steps of its virtual machine,
on PostgreSQL rows that scans visited. Both are the same in each run.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Engine, event

_STEPS = 10
_EXPLAINED = ("SELECT", "WITH", "UPDATE", "DELETE", "INSERT")
_LISTS = re.compile(r"\((?:\?|%\(\w+\)s(?:::\w+)?)(?:, (?:\?|%\(\w+\)s(?:::\w+)?))*\)")


@dataclass
class Statement:
    """One statement as it was sent.

    Args:
        text: Lists of values are one mark, however long.
        scanned: Tables and indexes that its plan reads from one end to the other.
    """

    text: str
    work: int = 0
    scanned: frozenset[str] = frozenset()


@dataclass
class Recording:
    """What was sent so far, from whatever thread."""

    statements: list[Statement] = field(default_factory=list)
    is_open: bool = True
    _current: dict[int, Statement] = field(default_factory=dict)

    def __call__(
        self,
        connection: Any,
        cursor: Any,
        statement: str,
        parameters: Any,
        _context: Any,
        executemany: bool,
    ) -> None:
        if executemany or not statement.startswith(_EXPLAINED) or "pg_advisory" in statement:
            return
        raw = connection.connection.dbapi_connection
        sent = Statement(text=_LISTS.sub("(...)", statement))
        if connection.dialect.name == "sqlite":
            raw.set_progress_handler(None, _STEPS)
            plan = raw.execute(f"EXPLAIN QUERY PLAN {statement}", parameters).fetchall()
            sent.scanned = _scanned_sqlite([row[3] for row in plan])
            self._current[id(raw)] = sent
            raw.set_progress_handler(lambda: self._step(id(raw)), _STEPS)
        else:
            sent.work, sent.scanned = _explained_postgresql(raw, statement, parameters)
        self.statements.append(sent)

    def _step(self, connection: int) -> None:
        if self.is_open:  # connections outlive it
            self._current[connection].work += _STEPS

    def work(self) -> Mapping[str, int]:
        """Text -> the most work that it was at once."""
        most: dict[str, int] = {}
        for one in self.statements:
            most[one.text] = max(one.work, most.get(one.text, 0))
        return most


_recordings: list[Recording] = []


@contextmanager
def recording() -> Iterator[Recording]:
    """Record what any engine of this process sends."""
    kept = Recording()
    _recordings.append(kept)
    try:
        yield kept
    finally:
        _recordings.remove(kept)
        kept.is_open = False


@event.listens_for(Engine, "before_cursor_execute")
def _note(*sent: Any) -> None:
    """Stays for good: other threads go through the listeners while one would be taken out."""
    for kept in tuple(_recordings):
        kept(*sent)


def _scanned_sqlite(plan: list[str]) -> frozenset[str]:
    found = (re.match(r"SCAN (\w+)(?:.* INDEX (\w+))?", line) for line in plan)
    return frozenset(line[2] or line[1] for line in found if line)


def _explained_postgresql(raw: Any, statement: str, parameters: Any) -> tuple[int, frozenset[str]]:
    """The rows that it visits, and what it scans; done and taken back."""
    with raw.cursor() as cursor:
        cursor.execute("SAVEPOINT explained")
        cursor.execute(f"EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) {statement}", parameters)
        ((answer,),) = cursor.fetchall()
        cursor.execute("ROLLBACK TO SAVEPOINT explained")
    (told,) = json.loads(answer) if isinstance(answer, str) else answer
    nodes = list(_nodes(told["Plan"]))
    scans = ("Seq Scan", "Index Scan", "Index Only Scan")
    scanned = {
        node.get("Index Name", node["Relation Name"])
        for node in nodes
        if node["Node Type"] in scans and "Index Cond" not in node
    }
    return sum(map(_visited, nodes)), frozenset(scanned)


def _nodes(plan: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield plan
    for inner in plan.get("Plans", ()):
        yield from _nodes(inner)


def _visited(node: Mapping[str, Any]) -> int:
    if not node["Node Type"].endswith(("Scan", "Scan Backward")):
        return 0
    removed = ("Rows Removed by Filter", "Rows Removed by Index Recheck")
    rows = node["Actual Rows"] + sum(node.get(name, 0) for name in removed)
    return int(rows * node["Actual Loops"])
