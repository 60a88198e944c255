"""What the ingest takes although the Standard does not allow it: never stricter than readers need.

dcmtk, GDCM and pydicom read every malformed image of ``tests.support.malformed``: what all of them read as
it was meant is taken, but for what is refused on purpose, each with its reason.
"""

from __future__ import annotations

import subprocess
import warnings
import zlib
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import gdcm
import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian

from node.domain.errors import InstanceRejected
from node.domain.instance import InstanceState
from node.domain.received import Note
from tests.support.instances import ORIGIN, Node, announced, ct_slice, opened_node
from tests.support.malformed import (
    REFUSED,
    SECOND_META,
    SECOND_META_OTHER_SYNTAX,
    TAKEN,
    Malformed,
    at,
    explicit,
    file_meta,
)
from tests.support.peers import need

SECOND = (SECOND_META, SECOND_META_OTHER_SYNTAX)
HEADER = ("PatientName", "PatientID", "Rows", "ImagePositionPatient", "RescaleSlope")
PIXELS = np.frombuffer(ct_slice().PixelData, "<i2").reshape(16, 16)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """One for all: each image is of a series of its own."""
    with opened_node(tmp_path_factory.mktemp("node")) as opened:
        yield opened


def fresh_image(numbers: Iterator[int] = count(1)) -> Dataset:  # noqa: B008 - one for the module
    image = ct_slice()
    number = next(numbers)
    image.SeriesInstanceUID = f"1.2.826.0.1.2.{number}"
    image.SOPInstanceUID = f"1.2.826.0.1.2.{number}.1"
    return image


def kept_of(node: Node, image: Dataset) -> tuple[dict[str, object], Path, list[str]]:
    """The row of an image, its file and the kinds of events of its series."""
    (row,) = [r for r in node.rows("instance") if r["sop_instance_uid"] == image.SOPInstanceUID]
    events = [e for e in node.rows("event") if e["series_instance_uid"] == image.SeriesInstanceUID]
    return row, node.spool.path_of(str(row["file_name"])), [str(e["kind"]) for e in events]


def header_of(dataset: Dataset) -> list[str]:
    return [str(dataset.get(keyword)) for keyword in HEADER]


def by_pydicom(path: Path) -> bool:
    """Whether header and pixels are those of the sound image, read together and header alone."""
    try:
        whole, header = dcmread(path), dcmread(path, stop_before_pixels=True)
        sound = header_of(ct_slice())
        return header_of(whole) == header_of(header) == sound and np.array_equal(
            whole.pixel_array, PIXELS
        )
    except Exception:  # noqa: BLE001 - any failure of a reader is an answer here
        return False


def by_gdcm(path: Path) -> bool:
    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    if not reader.Read():
        return False
    image = reader.GetImage()
    buffer = image.GetBuffer().encode("utf-8", "surrogateescape")
    if len(buffer) != PIXELS.nbytes:
        return False
    name = gdcm.StringFilter()
    name.SetFile(reader.GetFile())
    said = name.ToString(gdcm.Tag(0x0010, 0x0010)).strip()
    return said == "Phantom^Ramp" and np.array_equal(np.frombuffer(buffer, "<i2"), PIXELS.ravel())


def by_dcmtk(path: Path, folder: Path) -> bool:
    """dcmconv writes it anew; pydicom reads what it made of it."""
    made = folder / "by_dcmtk.dcm"
    made.unlink(missing_ok=True)
    done = subprocess.run(
        [need("/usr/bin/dcmconv"), "+te", path, made], capture_output=True, check=False
    )
    return done.returncode == 0 and by_pydicom(made)


def readers_of(path: Path, folder: Path) -> str:
    found = (
        ("pydicom", by_pydicom(path)),
        ("gdcm", by_gdcm(path)),
        ("dcmtk", by_dcmtk(path, folder)),
    )
    return " ".join(name for name, is_read in found if is_read)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", TAKEN, ids=lambda kind: kind.name)
def test_what_readers_take_alike_is_taken_and_noted(
    node: Node, tmp_path: Path, kind: Malformed
) -> None:
    image = fresh_image()
    path = tmp_path / "sent.dcm"
    path.write_bytes(kind.file(image))

    node.store_file(path.read_bytes())

    row, kept, events = kept_of(node, image)
    assert readers_of(path, tmp_path) == kind.readers
    # every reader of the node reads the file that it keeps
    assert by_pydicom(kept)
    assert row["is_input"] == 1
    assert events == [note.value for note in kind.notes]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", TAKEN, ids=lambda kind: kind.name)
def test_a_malformed_copy_of_a_kept_image_is_no_conflict(node: Node, kind: Malformed) -> None:
    image = fresh_image()
    node.store_file(Malformed(name="sound", change=bytes).file(image))

    states = {node.store_file(kind.file(image)).state for _ in range(2)}

    assert states <= {InstanceState.AMENDED, InstanceState.DUPLICATE}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", REFUSED, ids=lambda kind: kind.name)
def test_what_is_refused_is_read_differently_by_readers_or_refused_on_purpose(
    node: Node, tmp_path: Path, kind: Malformed
) -> None:
    path = tmp_path / "sent.dcm"
    path.write_bytes(kind.file(fresh_image()))

    with pytest.raises(InstanceRejected, match=kind.refused) as caught:
        node.store_file(path.read_bytes())

    read = [name for name in ("pydicom", "gdcm", "dcmtk") if name in readers_of(path, tmp_path)]
    assert caught.value.dimse_status == 0xC000
    assert kind.why or len(read) < 2, read


@pytest.mark.parametrize("kind", SECOND, ids=lambda kind: kind.name)
@pytest.mark.parametrize("transport", ["file", "dimse"])
def test_a_second_file_meta_group_is_dropped_and_the_first_one_counts(
    node: Node, kind: Malformed, transport: str
) -> None:
    image = fresh_image()

    if transport == "file":
        node.store_file(kind.file(image))
    else:
        node.store(image, kind.data_set(image))

    row, path, events = kept_of(node, image)
    assert row["transfer_syntax_uid"] == kind.syntax
    assert by_pydicom(path)
    assert events == [Note.FILE_META_REPEATED]


def test_a_second_file_meta_group_that_comes_in_pieces_never_decides_the_transfer_syntax(
    node: Node,
) -> None:
    image = fresh_image()
    arrival = node.ingest.begin(ORIGIN, announced(image))
    data = SECOND_META_OTHER_SYNTAX.data_set(image)
    arrival.write(data[:1])
    arrival.write(data[1:])

    with pytest.raises(InstanceRejected, match="names another transfer syntax"):
        arrival.finish()


def test_zeros_in_the_place_of_pixel_data_are_no_padding(node: Node) -> None:
    image = fresh_image()
    file = SECOND_META.file(image)
    cut = file[: file.index(explicit(0x7FE00010, b"OW", b"")[:6])] + bytes(500)

    with pytest.raises(InstanceRejected, match="zeros stand where the pixel data belong"):
        node.store_file(cut)


def test_one_event_tells_of_a_whole_series(node: Node) -> None:
    kind = next(kind for kind in TAKEN if kind.name == "group 0004")
    images = [fresh_image() for _ in range(8)]
    for image in images:
        image.SeriesInstanceUID = images[0].SeriesInstanceUID
        node.store_file(kind.file(image))

    _, _, events = kept_of(node, images[0])
    assert events == [Note.LOW_GROUP]


@pytest.mark.parametrize("uid", ["1.2.826.0.1.1.01", "1.2.00.3", "01.2.3", "1.2.0000000009"])
def test_uids_with_leading_zeros_are_taken_exactly_as_they_are(node: Node, uid: str) -> None:
    image = fresh_image()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom warns of it, or not, as it was told elsewhere
        image.SOPInstanceUID = image.SeriesInstanceUID = uid
    file = bytes(128) + b"DICM" + file_meta(image, "1.2.840.10008.1.2.1")

    node.store_file(file + _data_set(image))

    row, _, events = kept_of(node, image)
    assert (row["sop_instance_uid"], row["series_instance_uid"]) == (uid, uid)
    assert events == [Note.UID_LEADING_ZERO]


@pytest.mark.parametrize(
    ("text", "is_taken"),
    [("1.0", True), ("1.", True), ("1.5", False), ("one", False), ("1e0", False)],
)
def test_a_number_of_frames_is_read_as_readers_read_it_or_named(
    node: Node, text: str, is_taken: bool
) -> None:
    image = fresh_image()
    added = explicit(0x00280008, b"IS", text.encode() + b" " * (len(text) % 2))
    kind = Malformed(name="frames", change=at(0x00280004, added))

    if is_taken:
        node.store_file(kind.file(image))
        _, path, events = kept_of(node, image)
        kept = dcmread(path)
        assert events == [Note.DECIMAL_INTEGER]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert int(kept.NumberOfFrames) == 1
        assert np.array_equal(kept.pixel_array, PIXELS)
    else:
        with pytest.raises(InstanceRejected, match="Number of Frames is no number"):
            node.store_file(kind.file(image))


def _data_set(image: Dataset) -> bytes:
    return Malformed(name="sound", change=bytes).data_set(image)


@pytest.mark.parametrize(
    ("tail", "is_taken"), [(bytes(4), True), (bytes(5000), True), (b"x" * 20, False)]
)
def test_zeros_behind_a_deflate_stream_are_passed_over(
    node: Node, tail: bytes, is_taken: bool
) -> None:
    image = fresh_image()
    stream = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    deflated = stream.compress(_data_set(image)) + stream.flush() + tail
    head = bytes(128) + b"DICM" + file_meta(image, DeflatedExplicitVRLittleEndian)

    if not is_taken:
        with pytest.raises(InstanceRejected, match="20 bytes follow the deflate stream"):
            node.store_file(head + deflated)
        return
    node.store_file(head + deflated)
    _, path, _ = kept_of(node, image)
    assert by_pydicom(path)
