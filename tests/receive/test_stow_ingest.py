"""STOW-RS over the real ingest, spool and index."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset
from sqlalchemy import select

from node.database.engine import open_engine, reading, writing
from node.domain.limits import WebLimits
from node.observe import counts
from node.receive.ingest import Ingest
from node.receive.syntaxes import decodable_syntaxes
from node.spool import tables
from node.spool.catalog import SpoolCatalog
from node.spool.files import Spool, SpoolFolders, SpoolSettings
from node.spool.index import Index
from tests.support.cases import Cases
from tests.support.http_server import MULTIPART, REFUSED_SYNTAX, Answer, Site, body_of, stow_site
from tests.support.peers import Orthanc
from tests.support.phantoms import Phantom

STUDIES = "/dicom-web/studies"
PHANTOM = Phantom(shape=(3, 16, 12))
FILES = PHANTOM.files()
UIDS = [str(instance.SOPInstanceUID) for instance in PHANTOM.datasets()]


@dataclass
class Running:
    """A service with everything behind it."""

    site: Site
    folder: Path
    index: Index

    @property
    def catalog(self) -> SpoolCatalog:
        self.index.flush()
        return SpoolCatalog(self.index.engine)

    def post(self, *contents: bytes, study: str = "") -> tuple[Answer, Dataset]:
        path = f"{STUDIES}/{study}" if study else STUDIES
        body = body_of(*contents)
        answer = self.site.request("POST", path, body, {"Content-Type": MULTIPART})
        return answer, Dataset.from_json(json.loads(answer.body))


@pytest.fixture(scope="module")
def syntaxes() -> tuple[str, ...]:
    return decodable_syntaxes()


@pytest.fixture
def running(tmp_path: Path, syntaxes: tuple[str, ...]) -> Iterator[Running]:
    engine = open_engine(f"sqlite:///{tmp_path / 'index.sqlite'}")
    with writing(engine) as connection:
        tables.metadata.create_all(connection)
    index = Index(engine)
    spool = Spool(SpoolSettings(folders=SpoolFolders.of(tmp_path)), index)
    with stow_site(Ingest(spool, transfer_syntaxes=syntaxes), index) as site:
        yield Running(site, tmp_path, index)
    spool.close()
    index.close()
    engine.dispose()


def rows_of(running: Running, table: object) -> list[dict[str, object]]:
    running.index.flush()
    with reading(running.index.engine) as connection:
        return [dict(row._mapping) for row in connection.execute(select(table))]  # type: ignore[call-overload]


def parts_left(running: Running) -> list[Path]:
    return list((running.folder / "spool" / "incoming").iterdir())


def without_preamble(data: bytes) -> bytes:
    return data[132:]


def data_set_only(data: bytes) -> bytes:
    length = int.from_bytes(data[140:144], "little")
    return data[144 + length :]


def test_instances_are_indexed_under_their_association(running: Running) -> None:
    answer, module = running.post(*FILES)

    rows = rows_of(running, tables.instance)
    assert answer.status == 200
    assert [item.ReferencedSOPInstanceUID for item in module.ReferencedSOPSequence] == UIDS
    assert [row["sop_instance_uid"] for row in rows] == UIDS
    page = running.catalog.list_associations()
    [association] = page.rows
    assert (page.total, association["transport"], association["address"]) == (
        1,
        "stow",
        "127.0.0.1",
    )
    assert {row["association_id"] for row in rows} == {association["id"]}


def test_an_association_is_closed_as_released(running: Running) -> None:
    running.post(FILES[0])

    with running.site.connect():  # the row is closed a moment after the answer
        for _ in range(200):
            [association] = running.catalog.list_associations().rows
            if association["closed_at"]:
                break
    assert association["end"] == "released"


def test_f59_the_same_instance_in_other_wrappings_is_stored_once(running: Running) -> None:
    answers = [
        running.post(FILES[0])[0],
        running.post(FILES[0])[0],
        running.post(without_preamble(FILES[0]))[0],
        running.post(data_set_only(FILES[0]))[0],
    ]

    assert [answer.status for answer in answers] == [200] * 4
    assert len(rows_of(running, tables.instance)) == 1


def test_f51_another_study_than_the_path_names_is_409_and_named(running: Running) -> None:
    answer, module = running.post(FILES[0], study="1.2.3")

    [failed] = module.FailedSOPSequence
    assert answer.status == 409
    assert failed.ReferencedSOPInstanceUID == UIDS[0]
    assert failed.ReferencedSOPClassUID == "1.2.840.10008.5.1.4.1.1.2"
    assert 0xA900 <= failed.FailureReason <= 0xA9FF
    assert not rows_of(running, tables.instance)


def test_a_syntax_that_is_not_decoded_is_c122(running: Running) -> None:
    instance = pydicom.dcmread(io.BytesIO(FILES[0]))
    instance.file_meta.TransferSyntaxUID = REFUSED_SYNTAX
    del instance.PixelData
    changed = io.BytesIO()
    pydicom.dcmwrite(changed, instance)

    answer, module = running.post(changed.getvalue())

    failures = [*module.get("FailedSOPSequence", []), *module.get("OtherFailuresSequence", [])]
    assert answer.status == 409
    assert [item.FailureReason for item in failures] == [0xC122]


def test_f41_garbage_between_good_instances_harms_neither(running: Running) -> None:
    answer, module = running.post(FILES[0], b"\1" * 500, FILES[1][:-50], FILES[2])

    assert answer.status == 202
    assert [item.ReferencedSOPInstanceUID for item in module.ReferencedSOPSequence] == [
        UIDS[0],
        UIDS[2],
    ]
    failed = [*module.get("FailedSOPSequence", []), *module.get("OtherFailuresSequence", [])]
    assert len(failed) == 2
    assert {item.FailureReason >> 12 for item in failed} == {0xC}


def test_f45_a_truncated_body_leaves_no_part_behind(running: Running) -> None:
    body = body_of(FILES[0], FILES[1], close=False)

    answer = running.site.request("POST", STUDIES, body, {"Content-Type": MULTIPART})

    assert answer.status == 400
    assert [row["sop_instance_uid"] for row in rows_of(running, tables.instance)] == UIDS[:1]
    assert not parts_left(running)


def test_real_corrupt_files_fail_and_real_good_ones_are_stored(
    running: Running, shared_data: Cases
) -> None:
    folder = shared_data / "derived_ct_sts_001" / "corrupt"
    names = sorted(path.name for path in folder.glob("*.dcm"))
    bad = {"absurd_rows", "empty", "short_pixels", "text", "trunc60", "trunc_header"}

    answer, module = running.post(*[(folder / name).read_bytes() for name in names])

    failed = [*module.get("FailedSOPSequence", []), *module.get("OtherFailuresSequence", [])]
    assert answer.status == 202
    assert len(failed) == len(bad)
    assert {item.FailureReason >> 12 for item in failed} == {0xC}
    assert len(module.ReferencedSOPSequence) == len(names) - len(bad)
    assert len(rows_of(running, tables.instance)) == 6
    assert not parts_left(running)


@pytest.mark.parametrize("case", ["ts_big_endian", "ts_deflated", "ts_jpegls", "names_gb18030"])
def test_real_encodings_are_stored_as_received(
    running: Running, shared_data: Cases, case: str
) -> None:
    contents = [
        path.read_bytes()
        for path in sorted((shared_data / "derived_ct_sts_001" / case).glob("*.dcm"))
    ]

    answer, _ = running.post(*contents)

    rows = rows_of(running, tables.instance)
    stored = [
        (running.folder / "spool" / "instances" / str(row["file_name"])).read_bytes()[
            int(str(row["data_offset"])) :
        ]
        for row in rows
    ]
    assert answer.status == 200
    assert stored == [data_set_only(content) for content in contents]


@pytest.mark.peers
def test_a_real_orthanc_pushes_a_series_in_one_chunked_request(
    running: Running, tmp_path: Path
) -> None:
    server = {"Url": f"{running.site.url}/dicom-web/"}
    orthanc = Orthanc(
        tmp_path / "orthanc",
        options={"DicomWeb": {"Enable": True, "Servers": {"node": server}}},
    )
    orthanc.start()
    try:
        resources = [orthanc.post("/instances", content)["ID"] for content in FILES]
        orthanc.post("/dicom-web/servers/node/stow", {"Resources": resources, "Synchronous": True})
    finally:
        orthanc.stop()

    assert sorted(str(row["sop_instance_uid"]) for row in rows_of(running, tables.instance)) == (
        sorted(UIDS)
    )
    assert running.catalog.list_associations().total == 1


def test_of_parts_under_one_uid_the_last_header_counts(running: Running) -> None:
    versions = []
    for number in range(6):
        image = pydicom.dcmread(io.BytesIO(FILES[0]), force=True)
        image.PatientName = f"Phantom^{number}"
        buffer = io.BytesIO()
        image.save_as(buffer)
        versions.append(buffer.getvalue())

    answer, module = running.post(*versions)

    assert answer.status == 200
    assert len(module.ReferencedSOPSequence) == 6
    rows = sorted(rows_of(running, tables.instance), key=lambda row: row["version"])
    spool = running.folder / "spool" / "instances"
    kept = [pydicom.dcmread(spool / str(row["file_name"])) for row in rows]
    assert [str(each.PatientName) for each in kept] == [f"Phantom^{n}" for n in range(6)]


def test_of_many_refused_parts_few_are_kept_aside_and_all_are_told(
    tmp_path: Path, syntaxes: tuple[str, ...]
) -> None:
    engine = open_engine(f"sqlite:///{tmp_path / 'index.sqlite'}")
    tables.metadata.create_all(engine)
    index = Index(engine, batch_s=0.005)
    spool = Spool(SpoolSettings(folders=SpoolFolders.of(tmp_path)), index)
    ingest = Ingest(spool, transfer_syntaxes=syntaxes)
    before = counts.OF_PROCESS.of(counts.NOT_SET_ASIDE, "enough of this request")
    with stow_site(ingest, index, limits=WebLimits(max_stow_parts_aside=2)) as site:
        running = Running(site, tmp_path, index)
        answer, module = running.post(*[b"no DICOM"] * 5, FILES[0])

        assert answer.status == 202
        assert len(module.OtherFailuresSequence) == 5
        assert len(module.ReferencedSOPSequence) == 1
        assert len(running.catalog.list_quarantine().rows) == 2
        assert len(list(spool.quarantine.folder.iterdir())) == 2
        # the end of the request, which comes later, counts them against the series beside them
        lost = [row for row in rows_of(running, tables.loss) if not row["series_instance_uid"]]
        assert len(lost) == 5
    index.close()
    spool.close()
    engine.dispose()
    assert counts.OF_PROCESS.of(counts.NOT_SET_ASIDE, "enough of this request") == before + 3
