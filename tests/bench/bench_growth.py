"""What a node costs that has a past: this tree, and beside it another one.

``python -m tests.bench growth [--against TREE]``. Rows of 1e3, 1e4 and 1e5 series of ten instances are
written into databases of each tree's own schema, on PostgreSQL the most of them; then each tree measures
itself in a process of its own, the two taking turns. A figure is good where it stays within twice what it
is at the smallest past on the same database, or under its bound. ``--quick`` leaves out the largest past and
PostgreSQL.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from math import log10
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeAlias

from sqlalchemy import create_engine

from tests.bench.growth_rows import HELD, Past, fill, write_files, write_slices
from tests.bench.report import Goal, Report, Row, shown
from tests.support import postgresql

THIS_TREE = Path(__file__).parents[2]
NEW, OLD = "new", "old"
LIMIT_S = 300.0
FLAT = 2.0
POSTGRESQL = "PostgreSQL"
_CHILD = Path(__file__).with_name("growth_child.py")
_RULES = [{"name": "ct", "when": {"Modality": "CT"}, "run": "ct_tissue", "send": []}]
_ROLES = {role: {"SeriesDescription": role} for role in ("t1c", "t1", "t2", "flair")}
_STUDY_RULES = [{"name": "set", "study": _ROLES, "run": "brats_mri", "send": []}]

Figure: TypeAlias = float | str
"""A number, or why there is none."""

BOUNDS_OF: Mapping[str, Mapping[str, float]] = {
    "idle": {"idle route, % of a core": 2.0, "first tick, ms": 1000.0},
    "rebuild": {"start over an index, s": 10.0},  # meanwhile the other processes serve
    "deliveries": {"lease_delivery, ms": 5.0, "lease_delivery, all shut, ms": 5.0},
    "shut_and_open": {
        "one delivered while another is shut, ms": 10.0,
        "longest transaction of all, ms": 10.0,
    },
    "work_of_series": {
        "furthest, ms": 1.0,
        "supersede, ms": 1.0,
        "mark_superseded, ms": 1.0,
        "associations_around, ms": 1.0,
    },
    "retention": {"retention, ms": 50.0},
    "http": {
        "GET /series first page, ms": 30.0,
        "GET /series last page, ms": 30.0,
        "GET /readyz, ms": 5.0,
    },
    "unsettled": {"first settled, s": 3.0, "route at start, MB": 250.0},
    "study": {"study rule, all ticks, s": 3.0, "study rule, longest tick, s": 1.0},
}
"""Function of ``growth_child`` -> its figures, and what each stays under however much a node holds."""

BOUNDS = {name: bound for figures in BOUNDS_OF.values() for name, bound in figures.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """Nodes that differ in nothing but how much they hold.

    Args:
        series: How many series, the fewest first.
        measures: Functions of ``growth_child``.
        on_postgresql: Whether the smallest and the largest are measured there as well.
    """

    title: str
    past: Past
    series: Sequence[int]
    measures: Sequence[str]
    on_postgresql: bool = False

    def places(self) -> list[tuple[str, int, bool]]:
        """Column, series and whether it is PostgreSQL, in order."""
        here = [(str(number), number, False) for number in self.series]
        if self.on_postgresql:
            ends = (self.series[0], self.series[-1])
            here += [(f"{POSTGRESQL} {number}", number, True) for number in ends]
        return here


def scenes(now: float, *, is_quick: bool) -> list[Scene]:
    """What is measured."""
    past = Past(series=0, now=now)
    every = ("idle", "deliveries", "work_of_series", "http", "retention", "rebuild")
    every += ("shut_and_open",)  # last: it changes what there is
    return [
        Scene(
            title="series that a node has seen",
            past=past,
            series=(1_000, 10_000) if is_quick else (1_000, 10_000, 100_000),
            measures=every,
            on_postgresql=not is_quick,
        ),
        Scene(
            title="series of ten instances, unsettled at a start",
            past=replace(past, is_settled=False),
            series=(100, 1_000) if is_quick else (100, 1_000, 10_000),
            measures=("unsettled",),
        ),
        Scene(
            title="series of one study, and a rule of four roles",
            past=replace(past, is_settled=False, in_one_study=True),
            series=(50, 100) if is_quick else (50, 100, 200),
            measures=("study",),
        ),
    ]


def measure(
    is_quick: bool, against: Path | None = None, say: Callable[[str], None] = lambda _: None
) -> Iterator[Report]:
    """The tables of growth, each as soon as it is measured."""
    trees = {NEW: THIS_TREE} if against is None else {OLD: against.resolve(), NEW: THIS_TREE}
    with TemporaryDirectory(prefix="segnode-bench-") as root, ExitStack() as stack:
        slices = Path(root) / "slices"
        write_slices(slices)
        url = None
        if not is_quick and (programs := postgresql.programs()) is not None:
            url = stack.enter_context(postgresql.server(programs))
        for number, scene in enumerate(scenes(time.time(), is_quick=is_quick)):
            laid = _Ground(root=Path(root) / str(number), slices=slices, postgresql_url=url)
            figures: dict[str, dict[str, dict[str, Figure]]] = {}
            for column, series, is_server in scene.places():
                if is_server and url is None:
                    continue
                past = replace(scene.past, series=series)
                for tree, code in trees.items():
                    say(f"growth: {scene.title}, {column}, {tree}")
                    for name, figure in laid.measured(code, tree, past, scene, is_server).items():
                        figures.setdefault(name, {}).setdefault(tree, {})[column] = figure
            yield report_of(scene, figures)


# --- the ground ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ground:
    """Where the nodes of one scene lie; the trees share files, each has databases of its own."""

    root: Path
    slices: Path
    postgresql_url: str | None

    def measured(
        self, code: Path, tree: str, past: Past, scene: Scene, is_server: bool
    ) -> Mapping[str, Figure]:
        """Lay out a node of a tree, and have the tree measure it."""
        data = self.root / str(past.series)
        if not data.exists():
            write_files(data / "spool" / "instances", past, self.slices)
            for name in ("incoming", "quarantine", "series"):
                (data / "spool" / name).mkdir()
        if is_server:
            assert self.postgresql_url is not None
            name = f"{tree}{self.root.name}of{past.series}"
            url = postgresql.new_database(self.postgresql_url, name)
        else:
            url = f"sqlite:///{data}/{tree}.sqlite"
        config = data / f"{tree}.yaml"
        keys = {
            "data_dir": str(data),
            "database": url,
            "storage": {"reserve_gb": 0, "max_used_percent": 100},
            "rules": _STUDY_RULES if past.in_one_study else _RULES,
        }
        config.write_text(json.dumps(keys))  # JSON is YAML
        newest = [n for n in reversed(range(past.series)) if n >= HELD and past.is_done(n)]
        asked = {
            "url": url,
            "config": str(config),
            "series": past.series,
            "newest": [(past.study_uid(n), past.series_uid(n)) for n in newest[:100]],
            "limit_s": LIMIT_S,
        }
        ask(code, {**asked, "measures": ["migrate"]}, data)
        engine = create_engine(url)
        fill(engine, past)
        engine.dispose()
        figures: dict[str, Figure] = {}
        for name, answer in json.loads(
            ask(code, {**asked, "measures": scene.measures}, data)
        ).items():
            figures |= answer.get("figures") or dict.fromkeys(BOUNDS_OF[name], answer["why"])
        return figures


def ask(code: Path, asked: Mapping[str, object], folder: Path) -> str:
    """What a tree answers.

    Raises:
        RuntimeError: It ended with an error.
    """
    path = folder / "asked.json"
    path.write_text(json.dumps(asked))
    done = subprocess.run(
        [sys.executable, "-P", str(_CHILD), str(path)],
        env={**os.environ, "PYTHONPATH": str(code)},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{code}: {done.stderr[-2000:]}")
    return done.stdout


# --- the table -------------------------------------------------------------------------------------


def report_of(scene: Scene, figures: Mapping[str, Mapping[str, Mapping[str, Figure]]]) -> Report:
    """Old beside new, with bounds and slopes.

    Args:
        figures: Name -> tree -> column -> figure.
    """
    columns = [column for column, _, _ in scene.places()]
    rows: list[Row] = []
    goals = []
    for name, trees in figures.items():
        bound = BOUNDS.get(name)
        slopes = {tree: _slope(scene, found) for tree, found in trees.items()}
        for tree, found in trees.items():
            row: dict[str, Figure] = {"what": name, "tree": tree}
            row |= {column: found.get(column, "") for column in columns}
            row["per 1000 more"] = shown(slopes[tree]) if slopes[tree] is not None else ""
            row["slope new/old"] = ""
            if bound is not None:
                row["bound"], row["verdict"] = bound, verdict(found, columns, bound)
            if tree == NEW:
                row["slope new/old"] = _ratio(slopes.get(NEW), slopes.get(OLD))
                goals += [*_goals(name, found, columns, bound)]
            rows.append(row)
    return Report(part="growth", title=scene.title, rows=rows, goals=goals)


def verdict(found: Mapping[str, Figure], columns: Sequence[str], bound: float) -> str:
    """Whether all figures stay within twice the first one, or under the bound."""
    if not isinstance(found.get(columns[0]), (int, float)):
        return "unknown"
    held = [
        isinstance(figure, (int, float)) and figure <= _limit(column, found, columns, bound)
        for column, figure in found.items()
    ]
    return "held" if all(held) else "GROWS"


def _limit(column: str, found: Mapping[str, Figure], columns: Sequence[str], bound: float) -> float:
    """Twice the figure of the smallest past on the same database, or the bound."""
    first = found.get(_first_like(column, columns))
    return max(bound, FLAT * first) if isinstance(first, (int, float)) else bound


def _first_like(column: str, columns: Sequence[str]) -> str:
    is_server = column.startswith(POSTGRESQL)
    return next(each for each in columns if each.startswith(POSTGRESQL) == is_server)


def _goals(
    name: str, found: Mapping[str, Figure], columns: Sequence[str], bound: float | None
) -> Iterator[Goal]:
    """One for each figure after the first; one that could not be measured is missed."""
    for column, figure in found.items():
        if isinstance(figure, str):
            yield Goal(claim=f"{name} at {column}, {figure}", figure=float("inf"), limit=0.0)
        elif column != _first_like(column, columns) and bound is not None:
            limit = _limit(column, found, columns, bound)
            yield Goal(claim=f"{name} at {column}", figure=figure, limit=limit)


def _slope(scene: Scene, found: Mapping[str, Figure]) -> float | None:
    """How much a figure grows with a thousand series more, from the fewest to the most."""
    least, most = scene.series[0], scene.series[-1]
    first, last = found.get(str(least)), found.get(str(most))
    if least == most or not isinstance(first, (int, float)) or not isinstance(last, (int, float)):
        return None
    return (last - first) / (most - least) * 1000


def _ratio(new: float | None, old: float | None) -> str:
    """Slope of new over slope of old; where one does not grow there is nothing to divide."""
    if new is None or old is None:
        return ""
    return shown(max(new, 0.0) / old) if old > 0 else "old is flat"


# --- the plot --------------------------------------------------------------------------------------

_WIDTH, _HEIGHT, _IN_ROW, _MARGIN = 250, 170, 4, 34
_COLOURS = {OLD: "#b0452c", NEW: "#1f6f8b"}


def plot(reports: Sequence[Report]) -> str:
    """One small panel per figure as SVG, both axes logarithmic; old red, new blue, the bound dashed."""
    panels = [
        _panel(name, [row for row in report.rows if row["what"] == name])
        for report in reports
        for name in dict.fromkeys(str(row["what"]) for row in report.rows)
    ]
    rows = -(-len(panels) // _IN_ROW)
    placed = "\n".join(
        f'<g transform="translate({n % _IN_ROW * _WIDTH},{n // _IN_ROW * _HEIGHT})">{panel}</g>'
        for n, panel in enumerate(panels)
    )
    size = f'width="{_IN_ROW * _WIDTH}" height="{rows * _HEIGHT}"'
    style = "text{font:11px sans-serif;fill:#333}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size}><style>{style}</style>'
        f'<rect {size} fill="white"/>\n{placed}\n</svg>\n'
    )


def _panel(name: str, rows: Sequence[Row]) -> str:
    lines = {str(row["tree"]): _points(row) for row in rows}
    bound = rows[0].get("bound")
    values = [y for points in lines.values() for _, y in points]
    values += [float(bound)] if isinstance(bound, (int, float)) else []
    sizes = [x for points in lines.values() for x, _ in points]
    drawn = [f'<text x="8" y="16">{name}</text>']
    if not values or not sizes:
        return drawn[0]
    across = _scale(sizes, _MARGIN, _WIDTH - 14)
    up = _scale(values, _HEIGHT - 24, 30)
    if isinstance(bound, (int, float)):
        y = up(float(bound))
        drawn.append(
            f'<path d="M{_MARGIN} {y:.1f}H{_WIDTH - 14}" stroke="#888" stroke-dasharray="4 3"/>'
        )
    for tree, points in lines.items():
        path = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in points)
        colour = _COLOURS.get(tree, "#333")
        drawn.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        drawn += [
            f'<circle cx="{across(x):.1f}" cy="{up(y):.1f}" r="3" fill="{colour}"/>'
            for x, y in points
        ]
    for value in (min(values), max(values)):
        drawn.append(f'<text x="2" y="{up(value) + 4:.1f}">{shown(value)}</text>')
    for size in sorted(set(sizes)):
        drawn.append(f'<text x="{across(size) - 10:.1f}" y="{_HEIGHT - 8}">{size:.0f}</text>')
    return "".join(drawn)


def _points(row: Row) -> list[tuple[float, float]]:
    """Sizes and figures of a row; what is measured on a server has no line."""
    return [
        (float(column), max(float(figure), 1e-3))
        for column, figure in row.items()
        if column.isdigit() and isinstance(figure, (int, float))
    ]


def _scale(values: Sequence[float], low: float, high: float) -> Callable[[float], float]:
    """From the logarithm of a value to pixels."""
    least, most = log10(min(values)), log10(max(values))
    span = (most - least) or 1.0
    return lambda value: low + (log10(value) - least) / span * (high - low)
