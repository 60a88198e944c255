"""Encode 104 painted segments on 512 x 512 x 126, against highdicom's writer and dcmqi's.

``python -m tests.bench encode``. Each run is a process of its own, so that peak memory is its own;
the three take turns. The clock of the node and of highdicom starts with headers and labels in
memory and stops when the file is written; dcmqi's ``itkimage2segimage`` is a program, so its time
includes reading its inputs: CPU time of the whole process is the fairer figure and stands beside.
Verifying is what the node does on top, and no other writer does.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import highdicom
import numpy as np
import SimpleITK
from pydicom import dcmread
from pydicom.sr.coding import Code as PydicomCode
from pydicom.uid import generate_uid

from node.domain.result import LabelVolume
from node.domain.segment import Code, Segment
from tests.bench.report import Goal, Report, Row, median_of, peak_mb
from tests.support.phantoms import Phantom
from tests.support.segmentations import ANATOMICAL_STRUCTURE, LUNG, PROVENANCE, Segmentation, gated

SEGMENTS = 104
SHAPE = (126, 512, 512)
SPACING_MM = (3.0, 0.8, 0.8)
WRITERS = ("node", "highdicom", "dcmqi")
# encode and verify together may cost no more than highdicom takes to write
GOAL_OF_HIGHDICOM = 1.0


def painted(segments: int, shape: tuple[int, int, int]) -> np.ndarray:
    """Ellipsoids that later ones may overlap, as organs of a whole body lie."""
    random = np.random.default_rng(104)
    labels = np.zeros(shape, np.uint8)
    for value in range(1, segments + 1):
        centre = random.uniform(0.1, 0.9, 3) * shape
        radius = random.uniform(0.04, 0.2, 3) * shape
        low = np.maximum((centre - radius).astype(int), 0)
        high = np.minimum((centre + radius).astype(int) + 1, shape)
        box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        grid = np.ogrid[box]
        distance = sum(((g - c) / r) ** 2 for g, c, r in zip(grid, centre, radius, strict=True))
        labels[box][distance < 1] = value
    return labels


def colour(value: int) -> tuple[int, int, int]:
    """A display colour per segment."""
    return (value % 256, 255 - value % 256, 128)


def prepare(folder: Path, segments: int, shape: tuple[int, int, int]) -> None:
    """Source files, labels and dcmqi's description of them, for all writers alike."""
    phantom = Phantom(shape=shape, spacing_mm=SPACING_MM, noise_hu=0)
    phantom.__dict__["hu_volume"] = np.zeros(shape, np.int16)  # pixels are not what is measured
    phantom.write(folder / "source")
    labels = painted(segments, shape)
    np.save(folder / "labels.npy", labels)
    image = SimpleITK.GetImageFromArray(labels)
    affine = phantom.grid.affine_lps
    spacing = phantom.grid.spacing_mm[::-1]
    image.SetSpacing(spacing)
    image.SetOrigin(affine[:3, 3].tolist())
    image.SetDirection((affine[:3, [2, 1, 0]] / spacing).ravel().tolist())
    SimpleITK.WriteImage(image, folder / "labels.nrrd")
    (folder / "dcmqi.json").write_text(json.dumps(_dcmqi_description(segments)))


def _dcmqi_description(segments: int) -> dict[str, object]:
    def coded(code: Code) -> dict[str, str]:
        return {
            "CodeValue": code.value,
            "CodingSchemeDesignator": code.scheme,
            "CodeMeaning": code.meaning,
        }

    return {
        "ContentCreatorName": "segnode",
        "SeriesNumber": "1001",
        "InstanceNumber": "1",
        "ContentLabel": "SEGMENTATION",
        "ContentDescription": "bench",
        "SeriesDescription": "bench",
        "BodyPartExamined": "",
        "segmentAttributes": [
            [
                {
                    "labelID": value,
                    "SegmentDescription": f"structure {value}",
                    "SegmentLabel": f"structure {value}",
                    "SegmentAlgorithmType": "AUTOMATIC",
                    "SegmentAlgorithmName": "bench",
                    "SegmentedPropertyCategoryCodeSequence": coded(ANATOMICAL_STRUCTURE),
                    "SegmentedPropertyTypeCodeSequence": coded(LUNG),
                    "recommendedDisplayRGBValue": colour(value),
                }
                for value in range(1, segments + 1)
            ]
        ],
    }


def by_node(folder: Path) -> Row:
    """Our encoder to a file, then our verifier on the mapped file, as the node does it."""
    headers = [dcmread(path, stop_before_pixels=True) for path in _source(folder)]
    labels = np.load(folder / "labels.npy")
    segments = tuple(
        Segment(
            label_value=value,
            name=f"structure {value}",
            category=ANATOMICAL_STRUCTURE,
            type=LUNG,
            rgb=colour(value),
        )
        for value in range(1, int(labels.max()) + 1)
    )
    stack = gated([dcmread(path, stop_before_pixels=True) for path in _source(folder)])
    case = Segmentation(
        volume=LabelVolume(labels=labels, stack=stack),
        source=headers,
        segments=segments,
        provenance=replace(PROVENANCE, series_number=1001),
        threads=len(os.sched_getaffinity(0)),
    )
    path = folder / "node.dcm"
    started = time.perf_counter()
    encoded, digest = case.encode(), hashlib.sha256()
    with path.open("wb") as file:
        for chunk in encoded.chunks():
            digest.update(chunk)
            file.write(chunk)
    written, cpu_s, write_peak_mb = time.perf_counter(), _cpu_s(), peak_mb()
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        view = memoryview(mapped)
        case.verify(view)
        view.release()
    return {
        "write s": written - started,
        "verify s": time.perf_counter() - written,
        "process CPU s": cpu_s,
        "peak MB": write_peak_mb,
        "file MB": path.stat().st_size / 1e6,
        "frames": float(encoded.summary["frames"]),
    }


def by_highdicom(folder: Path) -> Row:
    """highdicom's Segmentation, BINARY, from the label volume."""
    sources = [dcmread(path) for path in _source(folder)]
    sources.sort(key=lambda source: float(source.ImagePositionPatient[2]))
    labels = np.load(folder / "labels.npy")
    algorithm = highdicom.AlgorithmIdentificationSequence(
        name="bench", family=PydicomCode("123110", "DCM", "Artificial Intelligence"), version="1"
    )
    descriptions = [
        highdicom.seg.SegmentDescription(
            segment_number=value,
            segment_label=f"structure {value}",
            segmented_property_category=_pydicom_code(ANATOMICAL_STRUCTURE),
            segmented_property_type=_pydicom_code(LUNG),
            algorithm_type="AUTOMATIC",
            algorithm_identification=algorithm,
        )
        for value in range(1, int(labels.max()) + 1)
    ]
    path = folder / "highdicom.dcm"
    started = time.perf_counter()
    made = highdicom.seg.Segmentation(
        sources,
        labels,
        "BINARY",
        descriptions,
        series_instance_uid=generate_uid(),
        series_number=1001,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer="bench",
        manufacturer_model_name="bench",
        software_versions="1",
        device_serial_number="1",
    )
    made.save_as(path)
    return {
        "write s": time.perf_counter() - started,
        "process CPU s": _cpu_s(),
        "peak MB": peak_mb(),
        "file MB": path.stat().st_size / 1e6,
        "frames": float(made.NumberOfFrames),
    }


def by_dcmqi(folder: Path) -> Row:
    """dcmqi's itkimage2segimage from one label image; whole program, reading included."""
    path = folder / "dcmqi.dcm"
    command = [
        str(Path(sys.executable).with_name("itkimage2segimage")),
        "--inputImageList", str(folder / "labels.nrrd"),
        "--inputDICOMDirectory", str(folder / "source"),
        "--inputMetadata", str(folder / "dcmqi.json"),
        "--outputDICOM", str(path),
        "--skip", "1",
    ]  # fmt: skip
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    seconds = time.perf_counter() - started
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "write s": seconds,
        "process CPU s": used.ru_utime + used.ru_stime,
        "peak MB": used.ru_maxrss * 1024 / 1e6,
        "file MB": path.stat().st_size / 1e6,
        "frames": float(dcmread(path, stop_before_pixels=True).NumberOfFrames),
    }


def measure(
    *, repetitions: int = 3, segments: int = SEGMENTS, shape: tuple[int, int, int] = SHAPE
) -> list[Report]:
    """The table of writers; who goes first changes from round to round."""
    runs: dict[str, list[dict[str, float]]] = {writer: [] for writer in WRITERS}
    with TemporaryDirectory(prefix="segnode-bench-") as root:
        prepare(Path(root), segments, shape)
        for repetition in range(repetitions):
            turn = repetition % len(WRITERS)
            for writer in (*WRITERS[turn:], *WRITERS[:turn]):
                runs[writer].append(_in_a_process(writer, Path(root)))
    columns = ("write s", "verify s", "process CPU s", "peak MB", "file MB", "frames")
    rows = []
    node_s = median_of(runs["node"], "write s")
    for writer in WRITERS:
        figures = {name: median_of(runs[writer], name) for name in columns}
        rows.append({"writer": writer, **figures, "node is x": figures["write s"] / node_s})
    both_s = node_s + median_of(runs["node"], "verify s")
    goal = Goal(
        claim="encode and verify against highdicom's writing alone, times",
        figure=both_s / median_of(runs["highdicom"], "write s"),
        limit=GOAL_OF_HIGHDICOM,
    )
    title = f"BINARY SEG, {segments} segments on {shape}, medians of {repetitions}"
    return [Report(part="encode", title=title, rows=rows, goals=[goal])]


def _in_a_process(writer: str, folder: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "tests.bench.bench_encode", writer, str(folder)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return {name: float(value) for name, value in json.loads(done.stdout).items()}


def _source(folder: Path) -> Sequence[Path]:
    return sorted((folder / "source").iterdir())


def _pydicom_code(code: Code) -> PydicomCode:
    return PydicomCode(code.value, code.scheme, code.meaning)


def _cpu_s() -> float:
    return time.process_time()


if __name__ == "__main__":
    makers = {"node": by_node, "highdicom": by_highdicom, "dcmqi": by_dcmqi}
    print(json.dumps(makers[sys.argv[1]](Path(sys.argv[2]))))
