"""How commands answer: JSON for programs, tables for terminals, aligned text for pipes.

Values from headers and peers may hold anything: what is not printable never reaches a terminal.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from node.database.pages import Page

JsonOption = Annotated[bool, typer.Option("--json", help="Answer as JSON.")]

Row = Mapping[str, Any]
Form = Callable[[Any], str]

_GAP = "  "


def plain(value: object) -> str:
    """A value on one line."""
    text = "" if value is None else str(value)
    return "".join(character if character.isprintable() else "?" for character in text)


def when(value: object) -> str:
    """Epoch seconds as local time."""
    if not isinstance(value, int | float):
        return ""
    return datetime.fromtimestamp(value, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def seconds(value: object) -> str:
    return f"{value:.2f} s" if isinstance(value, int | float) else ""


def told_stages(stages: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {seconds(took)}" for name, took in stages.items())


def megabytes(value: object) -> str:
    return f"{value / 1e6:.1f} MB" if isinstance(value, int | float) else ""


def status_code(value: object) -> str:
    """A DIMSE status as the Standard writes it."""
    return f"0x{value:04X}" if isinstance(value, int) else ""


def yes_or_no(value: object) -> str:
    return "yes" if value else "no"


# how a value is shown, by what the name of its key ends with; else as it is
_FORMS: Mapping[str, Form] = {
    "_at": when,
    "_bytes": megabytes,
    "_status": status_code,
    "_use": yes_or_no,
    "rule": lambda rule: plain(rule) or "(none)",
    "seconds": seconds,
}


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its title, where its value stands in a row, and how it is shown."""

    title: str
    key: str
    form: Form = plain

    def text(self, row: Row) -> str:
        return plain(self.form(row.get(self.key)))


def columns_of(described: str, **forms: Form) -> tuple[Column, ...]:
    """The columns of a table, such as ``id COMMERCIAL_USE=commercial WHY=sentence``.

    Args:
        described: Keys of a row, each with its title where that is not the key in capitals.
        forms: Key -> how its values are shown, where its name does not tell.
    """
    made = []
    for word in described.split():
        title, _, key = word.rpartition("=")
        by_name = (form for ending, form in _FORMS.items() if key.endswith(ending))
        title = (title or key.upper()).replace("_", " ")
        made.append(Column(title, key, forms.get(key) or next(by_name, plain)))
    return tuple(made)


def print_json(value: object) -> None:
    """The answer for programs: UTF-8 whatever the locale, and file names of other bytes escaped.

    A name that is no text of the file system's encoding holds surrogates (PEP 383): JSON can escape
    them, UTF-8 has no bytes for them.
    """
    text = json.dumps(value, indent=2, default=str, ensure_ascii=False)
    typer.echo(text.encode("utf-8", "backslashreplace"))


def speak_in_any_locale() -> None:
    """Have what the terminal's encoding does not know escaped, in place of an exception."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def print_table(columns: Sequence[Column], rows: Sequence[Row]) -> None:
    """Rows below their titles."""
    cells = [[column.text(row) for column in columns] for row in rows]
    titles = [column.title for column in columns]
    if sys.stdout.isatty():
        table = Table(*titles, box=None, pad_edge=False, header_style="bold")
        for row in cells:
            table.add_row(*(Text(cell, overflow="fold") for cell in row))
        Console().print(table)
        return
    for line in aligned([titles, *cells]):
        typer.echo(line)


def print_below(columns: Sequence[Column], rows: Sequence[Row]) -> None:
    """A table below what was printed before; nothing where it has no rows."""
    if rows:
        typer.echo("")
        print_table(columns, rows)


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Cells as lines with straight columns."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return [
        _GAP.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def print_facts(facts: Mapping[str, object]) -> None:
    """One fact per line; empty ones are left out."""
    shown = [[name, plain(value)] for name, value in facts.items() if value not in (None, "")]
    for line in aligned(shown) if shown else ():
        typer.echo(line)


def print_row(columns: Sequence[Column], row: Row) -> None:
    """One row, a fact per line."""
    print_facts({column.title.lower(): column.text(row) for column in columns})


def print_page(
    columns: Sequence[Column], page: Page, show: Callable[[Row], Row], *, as_json: bool
) -> None:
    """One page of a list; where it is not the last, how many rows there are and how to go on (stderr).

    Args:
        show: Puts a row into words.
    """
    rows = [show(row) for row in page.rows]
    if as_json:
        counted = {"total": page.total, "total_is_exact": page.total_is_exact}
        print_json({"items": rows, **counted, "next": page.next})
        return
    print_table(columns, rows)
    if page.next is not None:
        total = page.total if page.total_is_exact else f"more than {page.total}"
        say(f"{len(rows)} of {total}; --limit shows more, --after {page.next} goes on")


def tell_set_aside(unusable: Mapping[str, object]) -> None:
    """Tell which model folders cannot be used, and why."""
    for name, why in unusable.items():
        say(f"set aside: model {name}: {why}")


def say(sentence: str) -> None:
    """Talk: to stderr, so that results can be piped."""
    typer.echo(plain(sentence), err=True)
