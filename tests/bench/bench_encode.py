"""Encode and verify 104 painted segments on 512 x 512 x 126: seconds and memory.

    python tests/bench/bench_encode.py [REPETITIONS]

Each repetition is a process of its own, so that peak memory is its own. Source headers and labels
are made before the clock starts; the object is written to a file and verified from a mapped view
of it, as the node does.
"""

from __future__ import annotations

import gc
import hashlib
import mmap
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from node.domain.result import LabelVolume
from node.domain.segment import Code, Segment
from tests.phantoms import Phantom
from tests.segmentations import ANATOMICAL_STRUCTURE, Segmentation

SEGMENTS = 104
SHAPE = (126, 512, 512)


def painted() -> np.ndarray:
    """104 ellipsoids that later ones may overlap, as organs of a whole body lie."""
    random = np.random.default_rng(104)
    labels = np.zeros(SHAPE, np.uint8)
    for value in range(1, SEGMENTS + 1):
        centre = random.uniform((8, 80, 60), (118, 432, 452))
        radius = random.uniform((5, 15, 15), (32, 60, 60))
        low = np.maximum((centre - radius).astype(int), 0)
        high = np.minimum((centre + radius).astype(int) + 1, SHAPE)
        box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        grid = np.ogrid[box]
        distance = sum(((g - c) / r) ** 2 for g, c, r in zip(grid, centre, radius, strict=True))
        labels[box][distance < 1] = value
    return labels


def once() -> None:
    """One measured run; prints frames, bytes, three times in seconds and three peaks in MB."""
    phantom = Phantom(shape=SHAPE, spacing_mm=(3.0, 0.8, 0.8), noise_hu=0)
    phantom.__dict__["hu_volume"] = np.zeros(SHAPE, np.int16)  # pixels are not what is measured
    segments = tuple(
        Segment(
            label_value=value,
            name=f"structure {value}",
            category=ANATOMICAL_STRUCTURE,
            type=Code("39607008", "SCT", "Lung"),
            rgb=(value, 255 - value, 128),
        )
        for value in range(1, SEGMENTS + 1)
    )
    volume = LabelVolume(labels=painted(), stack=phantom.stack)
    case = Segmentation(volume=volume, source=phantom.headers(), segments=segments)
    del phantom.__dict__["hu_volume"]
    gc.collect()
    before = _peak_mb()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "seg.dcm")
        start = time.perf_counter()
        encoded = case.encode()
        prepared = time.perf_counter()
        digest = hashlib.sha256()
        with path.open("wb") as file:
            for chunk in encoded.chunks():
                digest.update(chunk)
                file.write(chunk)
        written, after_encode = time.perf_counter(), _peak_mb()
        with (
            path.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
        ):
            view = memoryview(mapped)
            case.verify(view)
            view.release()
        verified = time.perf_counter()
        print(
            encoded.frames,
            path.stat().st_size,
            *(f"{s:.3f}" for s in (prepared - start, written - prepared, verified - written)),
            *(f"{mb:.0f}" for mb in (before, after_encode, _peak_mb())),
        )


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Run repetitions and print medians."""
    if sys.argv[1:] == ["--once"]:
        once()
        return
    repetitions = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    rows = []
    for _ in range(repetitions):
        done = subprocess.run(
            [sys.executable, __file__, "--once"], capture_output=True, text=True, check=True
        )
        rows.append([float(field) for field in done.stdout.split()])
    frames, size, prepare, write, verify, before, encode_peak, verify_peak = map(
        median, zip(*rows, strict=True)
    )
    totals = [sum(row[2:5]) for row in rows]
    print(f"{SEGMENTS} segments on {SHAPE}: {frames:.0f} frames, {size / 1e6:.1f} MB")
    print(f"encode {prepare:.2f} s, write with sha256 {write:.2f} s, verify {verify:.2f} s")
    print(f"together {median(totals):.2f} s ({min(totals):.2f} to {max(totals):.2f})")
    print(
        f"peak memory: {before:.0f} MB before, {encode_peak:.0f} encoding, {verify_peak:.0f} verifying"
    )


if __name__ == "__main__":
    main()
