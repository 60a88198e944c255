"""Real files, damaged: the ingest takes them or says why not, and its memory is bounded.

``CORPUS`` is what once failed in a running node, as small as it fails, made by code.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.domain.errors import InstanceRejected
from node.receive.ingest import Announced
from node.receive.syntaxes import decodable_syntaxes
from tests.faults.content import (
    bomb,
    deflated_frames,
    long_value,
    long_value_in_item,
    many_elements,
    many_long_values,
)
from tests.receive.test_walk_agrees import EDIT, edited
from tests.support import raw_dimse as raw
from tests.support.cases import Cases
from tests.support.instances import ORIGIN, Node, opened_node

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

CASES = (
    "broken_files", "charsets", "ct_tiny_series", "deflated", "mr_small_transfer_syntaxes",
    "non_image_objects", "ct_legacy_converted_enhanced", "seg_highdicom_binary",
)  # fmt: skip
_MOST_FILE_BYTES = 100_000
# beside what is read of a file, and what a walk keeps of 10 000 elements
_MOST_BYTES = 8 << 20


@pytest.fixture(scope="module")
def files(shared_data: Cases) -> list[bytes]:
    paths = [path for case in CASES for path in sorted((shared_data / case).rglob("*.dcm"))]
    small = [path.read_bytes() for path in paths if path.stat().st_size < _MOST_FILE_BYTES]
    assert len(small) > 20
    return small


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    folder = tmp_path_factory.mktemp("node")
    with opened_node(folder, transfer_syntaxes=decodable_syntaxes()) as opened:
        yield opened


def statuses_of(store: Callable[[], object]) -> list[int]:
    """The status of a refusal, if it is one; nothing else may be raised."""
    try:
        store()
    except InstanceRejected as rejection:
        return [rejection.dimse_status]
    return []


def parts(node: Node) -> list[Path]:
    return list((node.spool.instances.parent / "incoming").iterdir())


@settings(max_examples=250)
@given(st.data())
def test_a_damaged_file_is_taken_or_refused_and_leaves_no_part(
    node: Node, files: list[bytes], data: st.DataObject
) -> None:
    source = files[data.draw(st.integers(0, len(files) - 1))]
    edits = data.draw(st.lists(EDIT, min_size=1, max_size=4))
    damaged = edited(source, edits)[: data.draw(st.none() | st.integers(0, len(source)))]

    tracemalloc.start()
    try:
        refused = statuses_of(lambda: node.store_file(damaged))
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert all(status >> 12 == 0xC for status in refused)
    assert parts(node) == []
    assert peak_bytes < _MOST_BYTES


UID = "1.2.826.0.1.3680043.8.498.99.1"
IMPLICIT, DEFLATED = raw.IMPLICIT_VR_LITTLE_ENDIAN, "1.2.840.10008.1.2.1.99"
CORPUS = {
    "elements without end": (IMPLICIT, lambda: many_elements(1_000_000, UID)),
    "a text of 3 MB": (IMPLICIT, lambda: long_value(0x00100020, 3_000_000, UID)),
    "a text of 3 MB in an item": (IMPLICIT, lambda: long_value_in_item(3_000_000, UID)),
    "values of 60 kB": (IMPLICIT, lambda: many_long_values(50, 60_000, UID)),
    "a deflate bomb": (DEFLATED, lambda: bomb(200 << 20, UID)),
    "frames deflated to a sixtieth": (DEFLATED, lambda: deflated_frames(10, UID)),
}


@pytest.mark.parametrize(("syntax", "pieces"), CORPUS.values(), ids=CORPUS)
def test_what_once_took_too_much_takes_little(
    tmp_path: Path, syntax: str, pieces: Callable[[], Iterable[bytes]]
) -> None:
    announced = Announced(
        sop_class_uid=raw.CT_IMAGE_STORAGE, sop_instance_uid=UID, transfer_syntax_uid=syntax
    )
    with opened_node(tmp_path) as node:
        made = list(pieces())
        tracemalloc.start()
        try:
            arrival = node.ingest.begin(ORIGIN, announced)
            for piece in made:
                arrival.write(piece)
            refused = statuses_of(arrival.finish)
            _, peak_bytes = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()

        assert all(status >> 12 == 0xC for status in refused)
        assert parts(node) == []
        assert peak_bytes < _MOST_BYTES
