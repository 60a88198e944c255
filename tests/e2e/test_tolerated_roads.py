"""What the ingest takes although the Standard does not allow it goes the whole road and comes out right.

Every kind is a series of its own with the pixels of one phantom: each must become the segmentation of
the sound series, with its own references, and nothing of what was tolerated in it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from node.domain.received import Note
from tests.support.malformed import SECOND_META, TAKEN, Malformed, at, explicit
from tests.support.node_in_process import SharedWorker
from tests.support.phantoms import Phantom
from tests.support.simulated_node import SimulatedNode, ct, simulated_node

# what pydicom says of such files; the log of a node leaves it out
SAID = ("Invalid value for VR", "Expected implicit VR")
pytestmark = [pytest.mark.filterwarnings(f"ignore:{words}:UserWarning") for words in SAID]

ZEROS = "UIDs with leading zeros"
LIKE_OTHERS = {
    f"{tail} behind, {encoding}"
    for tail in ("2 zeros", "13 zeros", "two line ends", "one NUL")
    for encoding in ("explicit", "implicit")
}
KINDS = {
    "sound": Malformed(name="sound", change=bytes),
    **{kind.name: kind for kind in (*TAKEN, SECOND_META) if kind.name not in LIKE_OTHERS},
    "Number of Frames 1.0": Malformed(
        name="Number of Frames 1.0",
        change=at(0x00280004, explicit(0x00280008, b"IS", b"1.0 ")),
        notes=(Note.DECIMAL_INTEGER,),
    ),
    ZEROS: Malformed(name=ZEROS, change=bytes, notes=(Note.UID_LEADING_ZERO,)),
}


def phantom_of(kind: str) -> Phantom:
    return ct(kind, study=kind, slices=4)


def images_of(kind: str) -> list[Dataset]:
    images = phantom_of(kind).datasets()
    if kind == ZEROS:
        for number, image in enumerate(images):
            image.StudyInstanceUID = "1.2.826.0.01.7"
            image.SeriesInstanceUID = "1.2.826.0.01.7.00"
            image.SOPInstanceUID = f"1.2.826.0.01.7.00.0{number}"
            image.FrameOfReferenceUID = "1.2.826.0.01.7.9"
    return images


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimulatedNode]:
    """A node that was given all series and did all jobs."""
    worker = SharedWorker()
    with (
        warnings.catch_warnings(),
        simulated_node(tmp_path_factory.mktemp("node"), worker) as opened,
    ):
        for words in SAID:
            warnings.filterwarnings("ignore", words)
        for name, kind in KINDS.items():
            opened.receive([kind.file(image) for image in images_of(name)])
        opened.run()
        yield opened
    worker.close()


@pytest.fixture(scope="module")
def results(node: SimulatedNode) -> dict[str, Path]:
    """The SEG by the Series Instance UID of its source."""
    folder = node.node.plan.results_folder
    found = {}
    for row in node.table("result"):
        path = folder / row["file_name"]
        if row["form"] == "seg":
            (series,) = dcmread(path).ReferencedSeriesSequence
            found[str(series.SeriesInstanceUID)] = path
    return found


def labels(path: Path) -> hd.Volume:
    return hd.seg.segread(path).get_volume(combine_segments=True, rtol=0.05)


def referenced(seg: Dataset) -> Sequence[str]:
    (series,) = seg.ReferencedSeriesSequence
    return sorted(str(item.ReferencedSOPInstanceUID) for item in series.ReferencedInstanceSequence)


@pytest.mark.parametrize("name", KINDS)
def test_each_kind_becomes_the_segmentation_of_the_sound_series(
    node: SimulatedNode, results: dict[str, Path], name: str
) -> None:
    images = images_of(name)
    uid = str(images[0].SeriesInstanceUID)
    sound = labels(results[str(images_of("sound")[0].SeriesInstanceUID)])

    made = labels(results[uid])

    seg = dcmread(results[uid])
    events = [e["kind"] for e in node.node.rows("event") if e["series_instance_uid"] == uid]
    assert sound.array.any()
    assert np.array_equal(made.array, sound.array)
    assert np.allclose(made.affine, sound.affine)
    assert referenced(seg) == sorted(str(image.SOPInstanceUID) for image in images)
    assert seg.StudyInstanceUID == images[0].StudyInstanceUID
    assert events == [note.value for note in KINDS[name].notes]
    assert min(element.tag.group for element in seg.iterall()) >= 0x0008
    assert "some text" not in str(seg)
    assert "ProcedureCodeSequence" not in seg


def test_no_uid_of_ours_has_a_leading_zero(results: dict[str, Path]) -> None:
    seg = dcmread(results["1.2.826.0.01.7.00"])
    ours: Sequence[Callable[[], str]] = (
        lambda: seg.SOPInstanceUID,
        lambda: seg.SeriesInstanceUID,
        lambda: seg.DimensionOrganizationSequence[0].DimensionOrganizationUID,
    )

    for uid in ours:
        assert not any(part.startswith("0") and part != "0" for part in uid().split("."))
