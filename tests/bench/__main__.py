"""All benchmarks, or some: ``python -m tests.bench [PART ...] [--quick] [--json FILE]``.

Parts: road (socket to SEG in Orthanc), ingest (against dcmtk and Orthanc), stow (against Orthanc), memory, encode (against
highdicom and dcmqi), tissue (the model alone), bundle (against MONAI's command), gpu (jobs on a
card, against MONAI's evaluator), glue (all but a network), demo, year (retention), growth (what a node
costs that has a past, beside another tree with ``--against``; a plot lies beside the figures), crowd (an honest
sender among peers that are not), soak (eight senders and kills). Peers are measured in the same run as the node, taking turns. The exit code says nothing of the goals unless ``--strict``: on a
busy machine a missed goal may be the machine's.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.bench import (
    bench_bundle,
    bench_crowd,
    bench_ct_tissue,
    bench_encode,
    bench_growth,
    bench_ingest,
    bench_memory,
    bench_road,
    bench_soak,
    bench_stow,
    bench_year,
    gpu,
)
from tests.bench.report import Goal, Report, machine

DEMO_LIMIT_S = 30.0

Measure = Callable[[bool], Iterable[Report]]


def demo(is_quick: bool) -> list[Report]:
    """The warm ``segnode demo``: the second run, when everything it reads is in the page cache."""
    rows = []
    for run in ("first", "warm"):
        with TemporaryDirectory(prefix="segnode-bench-") as folder:
            started = time.perf_counter()
            done = subprocess.run(
                [sys.executable, "-m", "node", "demo"], cwd=folder, capture_output=True, check=False
            )
            rows.append(
                {"run": run, "s": time.perf_counter() - started, "exit code": done.returncode}
            )
        if is_quick:
            break
    goal = Goal(claim="segnode demo, s", figure=rows[-1]["s"], limit=DEMO_LIMIT_S)
    return [Report(part="demo", title="segnode demo", rows=rows, goals=[goal])]


PARTS: Mapping[str, Measure] = {
    "road": lambda is_quick: (
        bench_road.measure(lives=1, warm=1) if is_quick else bench_road.measure()
    ),
    "ingest": lambda is_quick: (
        bench_ingest.measure(instances=100, repetitions=1) if is_quick else bench_ingest.measure()
    ),
    "stow": lambda is_quick: (
        bench_stow.measure(instances=40, repetitions=1, large_bytes=100_000_000)
        if is_quick
        else bench_stow.measure()
    ),
    "memory": lambda _: bench_memory.measure(),
    "encode": lambda is_quick: bench_encode.measure(repetitions=1 if is_quick else 3),
    "tissue": lambda is_quick: bench_ct_tissue.measure(slices=100 if is_quick else 400),
    "bundle": bench_bundle.measure,
    "gpu": gpu.measure,
    "glue": bench_bundle.glue,
    "year": lambda is_quick: (
        bench_year.measure(days=60, series_a_day=20) if is_quick else bench_year.measure()
    ),
    "demo": demo,
    "growth": bench_growth.measure,
    "crowd": lambda is_quick: bench_crowd.measure(repeats=1 if is_quick else 5),
    "soak": lambda is_quick: bench_soak.measure(minutes=1.0 if is_quick else 10.0),
}


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--quick", action="store_true", help="once each: is everything in place?")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    parser.add_argument("--strict", action="store_true", help="exit 1 where a goal is missed")
    parser.add_argument("--against", type=Path, metavar="TREE", help="for growth: an older tree")
    options = parser.parse_args()
    unknown = set(options.parts) - PARTS.keys()
    if unknown:
        parser.error(f"no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    print(machine(), flush=True)
    reports: list[Report] = []
    parts = {**PARTS, "growth": partial(bench_growth.measure, against=options.against)}
    for part in options.parts or PARTS:
        for report in parts[part](options.quick):
            print(f"\n{report.text()}", flush=True)
            reports.append(report)
    if options.json:
        figures = {"machine": machine(), "reports": [report.to_json() for report in reports]}
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
        if growth := [report for report in reports if report.part == "growth"]:
            options.json.with_suffix(".growth.svg").write_text(bench_growth.plot(growth))
    missed = [goal for report in reports for goal in report.goals if not goal.is_met]
    print(f"{len(missed)} goals missed" if missed else "every goal met")
    return 1 if missed and options.strict else 0


if __name__ == "__main__":
    sys.exit(main())
