"""A header as the ingest walks it says what pydicom's own reading says, of every real case."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from node.domain.errors import InstanceRejected, SeriesUnusable
from node.domain.frames import frames_of
from node.domain.header import HeaderMerger
from node.domain.instance import Instance
from node.domain.phase_hints import phase_hints_of
from node.pipeline import series as series_module
from node.pipeline.series import stored_header
from node.receive.syntaxes import decodable_syntaxes
from node.spool.arrivals import Arrivals
from tests.support.cases import Cases
from tests.support.instances import Node, ct_slice, opened_node
from tests.support.malformed import TAKEN, Malformed
from tests.support.phantoms import Phantom

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


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
