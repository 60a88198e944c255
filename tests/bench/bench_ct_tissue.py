"""Time and memory of ct_tissue over 400 x 512 x 512 voxels of the torso phantom, with noise.

Run by hand or by ``make bench``: ``python -m tests.bench.bench_ct_tissue [SLICES]``. Each part runs
in this one process; the peak is of the whole process, the volume included.
"""

from __future__ import annotations

import os
import resource
import sys
import time

import numpy as np

from node.domain.geometry import Geometry
from node.infer.ct_tissue import run
from node.infer.report import Stopwatch
from node.infer.volume import Volume
from tests.phantoms import CENTRE_MM, HOUNSFIELD, Region, region_at

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
    geometry = Geometry(
        shape=array.shape,
        origin_mm=tuple(origin.tolist()),
        steps_mm=((0, 0, spacing[0]), (0, spacing[1], 0), (spacing[2], 0, 0)),
        frame_of_reference_uid="2.25.1",
    )
    return Volume(array=array, geometry=geometry)


def main() -> int:
    """Print one line; the exit code says whether the limits hold."""
    volume = torso(int(sys.argv[1]) if len(sys.argv) > 1 else 400)
    watch, started = Stopwatch(), time.perf_counter()
    labels = run({"ct": volume}, {}, watch)
    seconds = time.perf_counter() - started
    peak_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    stages = ", ".join(f"{name} {value:.1f} s" for name, value in watch.seconds.items())
    print(
        f"ct_tissue {labels.shape} on {os.cpu_count()} cores: {seconds:.1f} s ({stages}), "
        f"peak {peak_gb:.2f} GB; limits {LIMIT_S:g} s, {LIMIT_GB:g} GB"
    )
    return 0 if seconds < LIMIT_S and peak_gb < LIMIT_GB else 1


if __name__ == "__main__":
    sys.exit(main())
