"""Time and memory of ct_tissue over 400 x 512 x 512 voxels of the torso phantom, with noise.

``python -m tests.bench tissue``. The peak is of the whole process, the volume included.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time

import numpy as np

from node.domain.grid import Grid
from node.infer.ct_tissue import label_tissues
from node.infer.report import Stopwatch
from node.infer.volume import Volume
from tests.bench.report import Goal, Report, peak_mb
from tests.support.phantoms import CENTRE_MM, HOUNSFIELD, Region, region_at

LIMIT_S, LIMIT_GB = 30.0, 3.0
_TABLE = np.array([HOUNSFIELD[region] for region in Region], np.int16)


def torso(slices: int, rows: int = 512, columns: int = 512) -> Volume:
    """The phantom at the size of a thin-slice chest CT, noise of 20 HU."""
    spacing = (208.0 / slices, 360.0 / rows, 360.0 / columns)
    offsets = [
        (np.arange(n) - (n - 1) / 2) * s
        for n, s in zip((slices, rows, columns), spacing, strict=True)
    ]
    origin = CENTRE_MM + np.array([axis[0] for axis in reversed(offsets)])
    array = np.empty((slices, rows, columns), np.int16)
    noise = np.random.default_rng(5)
    plane = np.empty((rows, columns, 3))
    plane[..., 0], plane[..., 1] = CENTRE_MM[0] + offsets[2], CENTRE_MM[1] + offsets[1][:, None]
    for k in range(slices):
        plane[..., 2] = CENTRE_MM[2] + offsets[0][k]
        array[k] = _TABLE[region_at(plane)]
        array[k] += noise.normal(0, 20, (rows, columns)).astype(np.int16)
    grid = Grid(
        shape=array.shape,
        origin_mm=tuple(origin.tolist()),
        steps_mm=((0, 0, spacing[0]), (0, spacing[1], 0), (spacing[2], 0, 0)),
        frame_of_reference_uid="2.25.1",
    )
    return Volume(array=array, grid=grid)


def measure(*, slices: int = 400) -> list[Report]:
    """The table of the model: measured in a process of its own, for the sake of its peak."""
    command = [sys.executable, "-m", "tests.bench.bench_ct_tissue", str(slices)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    figures = json.loads(done.stdout)
    seconds, peak_gb = sum(figures["stages"].values()), figures["peak GB"]
    rows = [{"stage": name, "s": value} for name, value in figures["stages"].items()]
    goals = [
        Goal(claim="ct_tissue, s", figure=seconds, limit=LIMIT_S),
        Goal(claim="ct_tissue, peak GB", figure=peak_gb, limit=LIMIT_GB),
    ]
    title = f"ct_tissue on {slices} x 512 x 512"
    return [Report(part="tissue", title=title, rows=rows, goals=goals)]


def main() -> None:
    """One run in this process; prints its figures."""
    volume = torso(int(sys.argv[1]))
    watch, started = Stopwatch(), time.perf_counter()
    label_tissues(volume, watch)
    seconds = time.perf_counter() - started
    told = dict(watch.seconds)
    told["other"] = seconds - sum(told.values())
    print(json.dumps({"stages": told, "peak GB": peak_mb() / 1000}))


if __name__ == "__main__":
    main()
