"""What a benchmark says: rows of figures, goals met or missed; as text and as JSON."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

Row = Mapping[str, float | str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """A claim about one figure; ``factor`` says which side of the limit is good."""

    claim: str
    figure: float
    limit: float
    at_least: bool = False

    @property
    def is_met(self) -> bool:
        """Whether the figure lies on the good side."""
        return self.figure >= self.limit if self.at_least else self.figure <= self.limit

    def __str__(self) -> str:
        side = "at least" if self.at_least else "at most"
        verdict = "met" if self.is_met else "MISSED"
        return f"{verdict:6} {self.claim}: {shown(self.figure)}, {side} {shown(self.limit)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One table of a part of the benchmark."""

    part: str
    title: str
    rows: Sequence[Row]
    goals: Sequence[Goal] = ()
    notes: Sequence[str] = ()

    def text(self) -> str:
        """The table as it is printed."""
        lines = [f"== {self.part}: {self.title}", *table(self.rows)]
        lines += [str(goal) for goal in self.goals]
        return "\n".join([*lines, *self.notes, ""])

    def to_json(self) -> dict[str, Any]:
        """The same as plain values."""
        goals = [{**asdict(goal), "is_met": goal.is_met} for goal in self.goals]
        return {
            "part": self.part,
            "title": self.title,
            "rows": [dict(row) for row in self.rows],
            "goals": goals,
            "notes": list(self.notes),
        }


def table(rows: Sequence[Row]) -> list[str]:
    """Columns aligned: words to the left, numbers to the right; columns in order of appearance."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    cells = [columns, *([shown(row.get(name, "")) for name in columns] for row in rows)]
    widths = [max(len(line[index]) for line in cells) for index in range(len(columns))]
    is_number = [not any(isinstance(row.get(name), str) for row in rows) for name in columns]
    return [
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, is_number, strict=True)
        ).rstrip()
        for line in cells
    ]


def shown(value: float | str) -> str:
    """Three significant digits, whole numbers from a hundred on."""
    if isinstance(value, str):
        return value
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def spread(values: Sequence[float]) -> str:
    """The least and the greatest, for beside a median."""
    return f"{shown(min(values))}-{shown(max(values))}"


def median_of(rows: Sequence[Mapping[str, float]], name: str) -> float:
    """The median of one figure over repeated runs; absent counts as nothing."""
    return median(row.get(name, 0.0) for row in rows)


def peak_mb() -> float:
    """Most memory that this process had; rusage would count what its parent had before exec.

    Source: proc(5), VmHWM
    """
    status = Path("/proc/self/status").read_text()
    found = re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)
    return int(found[1]) * 1024 / 1e6 if found else 0.0


def machine() -> str:
    """Processor, cores, memory, load, system and Python: what every figure depends on."""
    model = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    memory_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    load = os.getloadavg()[0]
    return (
        f"{os.cpu_count()} x {model}, {memory_gb:.0f} GB, Linux {platform.release()}, "
        f"Python {platform.python_version()}, load {load:.1f}"
    )
