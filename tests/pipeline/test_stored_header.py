"""A header as the ingest walks it says what pydicom's own reading says, of every real case."""

from __future__ import annotations

import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from struct import pack

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from node.domain.errors import InstanceRejected, SeriesUnusable
from node.domain.frames import frames_of
from node.domain.header import HeaderMerger
from node.domain.instance import Instance
from node.domain.phase_hints import phase_hints_of
from node.domain.reasons import codes_of
from node.pipeline import series as series_module
from node.pipeline.series import HeaderTooLong, stored_header
from node.receive.syntaxes import DEFLATED, decodable_syntaxes
from node.spool.arrivals import Arrivals
from tests.support.cases import Cases
from tests.support.instances import (
    ORIGIN,
    Node,
    announced,
    ct_slice,
    data_set_bytes,
    opened_node,
)
from tests.support.malformed import TAKEN, Malformed
from tests.support.node_in_process import SharedWorker
from tests.support.phantoms import Phantom
from tests.support.simulated_node import ct, said, simulated_node

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
IMPLICIT = "1.2.840.10008.1.2"


def facts(header: Dataset) -> object:
    try:
        frames: object = frames_of(header), phase_hints_of(header)
    except SeriesUnusable as unusable:
        frames = unusable.reasons
    return HeaderMerger([header]).header(), frames


def kept(node: Node) -> list[Instance]:
    node.index.flush()
    arrivals = Arrivals(node.engine)
    series = {row["series_instance_uid"] for row in node.rows("instance")}
    return [one for uid in sorted(series) for _, one in arrivals.arrivals_of(uid)]


def compare(node: Node) -> int:
    instances = node.spool.instances
    for one in kept(node):
        whole = dcmread(instances / one.file_name, stop_before_pixels=True, force=True)
        assert facts(stored_header(instances, one)) == facts(whole), one.sop_instance_uid
    return len(kept(node))


@pytest.mark.parametrize(
    "case",
    [
        *("ct_tiny_series", "ct_enhanced", "ct_legacy_converted_enhanced", "ct_not_a_volume"),
        *("mr_enhanced_hyperfine", "mr_enhanced_small_transfer_syntaxes", "mr_hitachi_implicit"),
        *("mr_mixed_transfer_syntaxes", "mr_mosaic_dwi_hfs", "mr_small_transfer_syntaxes"),
        *("mr_enhanced_philips_phantom", "charsets", "broken_files", "deflated"),
        *("non_image_objects", "pet_uneven_spacing_slope", "seg_liver_ct3slice"),
    ],
)
def test_real_cases(shared_data: Cases, tmp_path: Path, case: str) -> None:
    with opened_node(tmp_path, transfer_syntaxes=decodable_syntaxes()) as node:
        for path in sorted((shared_data / case).rglob("*"))[:40]:
            if path.is_file():
                try:
                    node.store_file(path.read_bytes())
                except InstanceRejected:
                    continue
        assert compare(node) > 0


@pytest.mark.parametrize("case", TAKEN, ids=lambda case: case.name)
def test_what_the_standard_does_not_allow(tmp_path: Path, case: Malformed) -> None:
    with opened_node(tmp_path, transfer_syntaxes=decodable_syntaxes()) as node:
        node.store_file(case.file(ct_slice()))
        assert compare(node) == 1


def test_the_usual_header_is_walked_and_not_read_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened_node(tmp_path) as node:
        Phantom(shape=(3, 8, 8)).write(tmp_path / "ct")
        for path in sorted((tmp_path / "ct").iterdir()):
            node.store_file(path.read_bytes())
        monkeypatch.setattr(series_module, "dcmread", None)

        assert [len(stored_header(node.spool.instances, one)) > 10 for one in kept(node)] == [
            True
        ] * 3


def with_an_icon(image: Dataset) -> Dataset:
    """Pixels in a sequence in front of the image's own."""
    icon = Dataset()
    icon.BitsAllocated, icon.PixelRepresentation = 8, 0
    icon.PixelData = bytes(range(200))
    image.IconImageSequence = [icon]
    image.PresentationLUTShape = "IDENTITY"
    return image


@pytest.mark.parametrize("is_implicit", [False, True])
def test_wherever_the_beginning_of_a_file_is_cut_the_header_is_whole(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, is_implicit: bool
) -> None:
    data = data_set_bytes(with_an_icon(ct_slice()), is_implicit=is_implicit)
    with opened_node(tmp_path) as node:
        keep(node, data, IMPLICIT if is_implicit else ExplicitVRLittleEndian)
        (instance,) = kept(node)
        path = node.spool.instances / instance.file_name
        whole = dcmread(path, stop_before_pixels=True)
        pixels_at = len(data) - len(dcmread(path).PixelData)

        monkeypatch.setattr(series_module, "dcmread", None)
        for most in range(1, len(data), 3):
            monkeypatch.setattr(series_module, "_BEGINNINGS", (most, len(data) + 1))
            assert stored_header(node.spool.instances, instance) == whole, most

        monkeypatch.setattr(series_module, "_BEGINNINGS", (pixels_at,))
        assert stored_header(node.spool.instances, instance) == whole


def test_of_a_large_image_no_more_is_read_than_its_header(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with opened_node(tmp_path) as node:
        keep(node, data_set_bytes(ct_slice(side=3000)), ExplicitVRLittleEndian)
        (instance,) = kept(node)
        monkeypatch.setattr(series_module, "dcmread", None)

        with at_most(1 << 20):
            assert len(stored_header(node.spool.instances, instance)) > 10


LONG = 3 << 20


def in_an_item(image: Dataset) -> bytes:
    """The image with a text in an item of a sequence of undefined length."""
    data = data_set_bytes(image, is_implicit=True)
    place = data.index(pack("<HH", 0x0010, 0x0010))
    head = pack("<HHLHHL", 0x0008, 0x1115, 0xFFFFFFFF, 0xFFFE, 0xE000, 0xFFFFFFFF)
    text = pack("<HHL", 0x0010, 0x0020, LONG) + b"1" * LONG
    ends = pack("<HHLHHL", 0xFFFE, 0xE00D, 0, 0xFFFE, 0xE0DD, 0)
    return data[:place] + head + text + ends + data[place:]


def in_many_elements(image: Dataset) -> bytes:
    """The image with private values of which none is long."""
    data = data_set_bytes(image, is_implicit=True)
    place = data.index(pack("<HH", 0x0020, 0x000D))
    values = (pack("<HHL", 0x0011, 0x1000 + at, 60_000) + bytes(60_000) for at in range(50))
    return data[:place] + b"".join(values) + data[place:]


@pytest.mark.parametrize("made", [in_an_item, in_many_elements])
def test_a_header_that_nobody_has_memory_for_is_not_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, made: Callable[[Dataset], bytes]
) -> None:
    monkeypatch.setattr(series_module, "MAX_HEADER_BYTES", 1 << 20)
    monkeypatch.setattr(series_module, "_BEGINNINGS", (1 << 20,))
    with opened_node(tmp_path) as node:
        keep(node, made(ct_slice()), IMPLICIT)
        (instance,) = kept(node)

        with pytest.raises(HeaderTooLong), at_most(LONG // 2):
            stored_header(node.spool.instances, instance)


def test_a_series_of_such_a_header_is_held_and_others_complete(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, worker: SharedWorker
) -> None:
    hostile, honest = ct("hostile"), ct("honest")
    hostile = replace(hostile, attributes=(("PatientComments", "x" * 50_000),))
    with simulated_node(tmp_path, worker) as node:
        monkeypatch.setattr(series_module, "MAX_HEADER_BYTES", 20_000)
        monkeypatch.setattr(series_module, "_BEGINNINGS", (20_000,))
        for phantom in (hostile, honest):
            node.receive(phantom.files())

        node.settle()

        held = node.series(hostile)
        assert (held.state, codes_of(held.reasons)) == ("held", ["not_judged"])
        assert said(held).startswith("a header is longer than ")
        assert node.series(honest).state == "complete"


def test_of_deflated_pixels_no_more_is_inflated_than_a_header_may_have(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(series_module, "MAX_HEADER_BYTES", 1 << 20)
    image = ct_slice(side=4000)
    stream = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    with opened_node(tmp_path) as node:
        keep(node, stream.compress(data_set_bytes(image)) + stream.flush(), DEFLATED)
        (instance,) = kept(node)

        with at_most(8 << 20):
            header = stored_header(node.spool.instances, instance)

        assert facts(header) == facts(dcmread(node.spool.instances / instance.file_name))


def test_a_deflated_header_that_is_too_long_is_not_taken_for_one_that_ends(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(series_module, "MAX_HEADER_BYTES", 1 << 20)
    image = ct_slice()
    for at in range(50):
        image.add_new((0x0011, 0x1000 + at), "UN", bytes(60_000))
    stream = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    with opened_node(tmp_path) as node:
        keep(node, stream.compress(data_set_bytes(image)) + stream.flush(), DEFLATED)
        (instance,) = kept(node)

        with pytest.raises(HeaderTooLong):
            stored_header(node.spool.instances, instance)


def keep(node: Node, data: bytes, syntax: str) -> None:
    arrival = node.ingest.begin(ORIGIN, announced(ct_slice(), syntax))
    arrival.write(data)
    arrival.finish()


@contextmanager
def at_most(size_bytes: int) -> Iterator[None]:
    """Python's memory grows by no more."""
    tracemalloc.start()
    try:
        yield
    finally:
        _, peak_bytes = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak_bytes < size_bytes
