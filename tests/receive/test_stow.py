"""STOW-RS answers as PS3.18 10.5 says, and keeps what it says it keeps."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

import pydicom
import pytest
from dicomweb_client import DICOMwebClient
from pydicom.dataset import Dataset
from requests import Session

from node.domain.instance import Origin
from node.domain.limits import WebLimits
from node.receive.ingest import Receipt
from node.receive.stow import HEAD_BYTES
from tests.support.http_server import (
    BOUNDARY,
    MULTIPART,
    REFUSED_SYNTAX,
    Answer,
    MemoryArrival,
    MemoryAssociations,
    MemoryIngest,
    Site,
    body_of,
    read_answer,
    stow_site,
)
from tests.support.phantoms import Phantom
from tests.support.waiting import PATIENCE_S, wait_for

STUDIES = "/dicom-web/studies"
PHANTOM = Phantom(shape=(3, 16, 12))
FILES = PHANTOM.files()
UIDS = [str(instance.SOPInstanceUID) for instance in PHANTOM.datasets()]


@dataclass(frozen=True)
class Running:
    """A server, and what it hands instances to."""

    site: Site
    ingest: MemoryIngest
    associations: MemoryAssociations


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    ingest, associations = MemoryIngest(), MemoryAssociations()
    with stow_site(ingest, associations) as site:
        yield Running(site, ingest, associations)


@pytest.fixture
def ingest(running: Running) -> MemoryIngest:
    running.ingest.clear()
    return running.ingest


@pytest.fixture
def associations(running: Running) -> MemoryAssociations:
    running.associations.clear()
    return running.associations


@pytest.fixture
def site(running: Running, ingest: MemoryIngest, associations: MemoryAssociations) -> Site:
    return running.site


@pytest.fixture
def session() -> Iterator[Session]:
    with Session() as closed_afterwards:
        yield closed_afterwards


def post(
    site: Site, body: bytes, path: str = STUDIES, content_type: str = MULTIPART, **headers: str
) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return site.request("POST", path, body, {"Content-Type": content_type, **named})


def response_of(answer: Answer) -> Dataset:
    assert answer.headers["content-type"] == "application/dicom+json"
    return Dataset.from_json(json.loads(answer.body))


def uids(sequence: list[Dataset]) -> list[str]:
    return [item.ReferencedSOPInstanceUID for item in sequence]


# --- what is kept ---------------------------------------------------------------------------------


def test_dicomweb_client_reads_which_instances_are_stored(
    site: Site, ingest: MemoryIngest, session: Session
) -> None:
    client = DICOMwebClient(url=f"{site.url}/dicom-web", session=session)

    answer = client.store_instances(PHANTOM.datasets())

    assert uids(answer.ReferencedSOPSequence) == UIDS
    assert list(ingest.instances) == UIDS


def test_dicomweb_client_sends_chunks_beyond_a_megabyte(
    site: Site, ingest: MemoryIngest, session: Session
) -> None:
    big = Phantom(shape=(4, 512, 512)).datasets()
    client = DICOMwebClient(url=f"{site.url}/dicom-web", session=session, chunk_size=100_000)

    answer = client.store_instances(big, study_instance_uid=big[0].StudyInstanceUID)

    assert len(answer.ReferencedSOPSequence) == 4
    stored = [pydicom.dcmread(io.BytesIO(data), force=True) for data in ingest.instances.values()]
    assert [item.PixelData for item in stored] == [item.PixelData for item in big]


def test_f40_three_good_instances_are_200_with_three_references(
    site: Site, ingest: MemoryIngest
) -> None:
    answer = post(site, body_of(*FILES))

    module = response_of(answer)
    assert answer.status == 200
    assert uids(module.ReferencedSOPSequence) == UIDS
    assert {item.ReferencedSOPClassUID for item in module.ReferencedSOPSequence} == {
        "1.2.840.10008.5.1.4.1.1.2"
    }
    assert list(ingest.instances.values()) == FILES


def test_retrieve_url_is_present_and_empty_and_empty_sequences_are_absent(site: Site) -> None:
    module = json.loads(post(site, body_of(FILES[0])).body)

    assert module["00081190"] == {"vr": "UR"}
    assert module["00081199"]["Value"][0]["00081190"] == {"vr": "UR"}
    assert set(module) == {"00081190", "00081199"}


def test_f41_one_good_and_one_garbage_part_is_202_with_both_told(
    site: Site, ingest: MemoryIngest
) -> None:
    answer = post(site, body_of(b"\x01garbage" * 50, FILES[0]))

    module = response_of(answer)
    assert answer.status == 202
    assert uids(module.ReferencedSOPSequence) == UIDS[:1]
    assert [item.FailureReason for item in module.OtherFailuresSequence] == [0xC000]
    assert "FailedSOPSequence" not in module


def test_f50_garbage_only_is_409_with_other_failures(site: Site) -> None:
    answer = post(site, body_of(b"text", b"", b"\0" * 200))

    assert answer.status == 409
    assert [item.FailureReason for item in response_of(answer).OtherFailuresSequence] == [
        0xC000
    ] * 3


def test_f59_the_same_instance_again_is_200(site: Site, ingest: MemoryIngest) -> None:
    post(site, body_of(FILES[0]))

    answer = post(site, body_of(FILES[0]))

    assert answer.status == 200
    assert uids(response_of(answer).ReferencedSOPSequence) == UIDS[:1]
    assert len(ingest.instances) == 1


def test_f51_an_instance_of_another_study_fails_alone(site: Site, ingest: MemoryIngest) -> None:
    other = Phantom(shape=(1, 8, 8), study="2")

    answer = post(site, body_of(FILES[0], *other.files()), f"{STUDIES}/{PHANTOM.uid('study')}")

    module = response_of(answer)
    assert answer.status == 202
    assert uids(module.ReferencedSOPSequence) == UIDS[:1]
    assert module.FailedSOPSequence[0].FailureReason == 0xA900
    assert module.FailedSOPSequence[0].ReferencedSOPClassUID == "1.2.840.10008.5.1.4.1.1.2"
    assert list(ingest.instances) == UIDS[:1]


def test_f51_a_request_of_another_study_is_409(site: Site) -> None:
    answer = post(site, body_of(*FILES), f"{STUDIES}/1.2.3")

    assert answer.status == 409
    assert len(response_of(answer).FailedSOPSequence) == 3


def test_a_transfer_syntax_that_is_not_supported_is_c122(site: Site) -> None:
    instance = pydicom.dcmread(io.BytesIO(FILES[0]))
    instance.file_meta.TransferSyntaxUID = REFUSED_SYNTAX
    del instance.PixelData
    changed = io.BytesIO()
    pydicom.dcmwrite(changed, instance)

    answer = post(site, body_of(changed.getvalue()))

    assert response_of(answer).FailedSOPSequence[0].FailureReason == 49442


def test_no_room_and_nothing_stored_is_503_with_retry_after(
    site: Site, ingest: MemoryIngest
) -> None:
    ingest.room_bytes = 10

    answer = post(site, body_of(FILES[0]))

    assert answer.status == 503
    assert int(answer.headers["retry-after"]) > 0
    assert response_of(answer).OtherFailuresSequence[0].FailureReason == 0xA700


def test_no_room_for_some_is_202(site: Site, ingest: MemoryIngest) -> None:
    ingest.room_bytes = len(FILES[0])

    answer = post(site, body_of(FILES[0], FILES[1] + b"\0" * 100))

    assert answer.status == 202
    assert response_of(answer).OtherFailuresSequence[0].FailureReason == 0xA700


def test_f49_a_single_file_as_the_body_is_stored(site: Site, ingest: MemoryIngest) -> None:
    answer = post(site, FILES[0], content_type="application/dicom")

    assert answer.status == 200
    assert list(ingest.instances.values()) == [FILES[0]]


def test_a_part_without_content_type_is_taken_as_dicom(site: Site) -> None:
    assert post(site, body_of(FILES[0], part_headers="X-Part: 1")).status == 200


@pytest.mark.parametrize(
    "part_headers",
    [
        "Content-Type: text/html",
        "Content-Type: image/png",
        "Content-Type: application/dicom\r\nContent-Transfer-Encoding: base64",
        "Content-Type: nonsense",
    ],
)
def test_f43_a_part_of_another_type_or_encoding_fails(
    site: Site, ingest: MemoryIngest, part_headers: str
) -> None:
    good = body_of(FILES[0], close=False)

    alone = post(site, body_of(FILES[1], part_headers=part_headers))
    mixed = post(site, good + body_of(FILES[1], part_headers=part_headers))

    assert (alone.status, mixed.status) == (409, 202)
    assert len(response_of(mixed).OtherFailuresSequence) == 1
    assert list(ingest.instances) == UIDS[:1]


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content_type",
    [
        'multipart/related; type="application/dicom"',
        "multipart/related; type=application/dicom; boundary=",
        f'multipart/related; type="application/dicom"; boundary={"x" * 201}',
        'multipart/related; type="application/dicom"; boundary="a{b"',
        'multipart/related; type="application/dicom"; boundary=other',
    ],
)
def test_f42_a_missing_illegal_or_wrong_boundary_is_400(
    site: Site, ingest: MemoryIngest, content_type: str
) -> None:
    answer = post(site, body_of(FILES[0]), content_type=content_type)

    assert answer.status == 400
    assert not ingest.instances


def test_f44_delimiters_with_lf_only_are_400(site: Site, ingest: MemoryIngest) -> None:
    body = f"--{BOUNDARY}\nContent-Type: application/dicom\n\n".encode() + FILES[0]

    answer = post(site, body + f"\n--{BOUNDARY}--\n".encode())

    assert answer.status == 400
    assert not ingest.instances


def test_f45_a_truncated_body_is_400_and_its_last_part_is_not_stored(
    site: Site, ingest: MemoryIngest, associations: MemoryAssociations
) -> None:
    answer = post(site, body_of(FILES[0], FILES[1], close=False))

    assert answer.status == 400
    assert list(ingest.instances) == UIDS[:1]
    assert uids(response_of(answer).ReferencedSOPSequence) == UIDS[:1]
    assert ingest.abandoned == 1
    assert associations.wait()[1] == "aborted"


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"", MULTIPART),
        (b"", "application/dicom"),
        (f"--{BOUNDARY}--\r\n".encode(), MULTIPART),
        (b"\r\n", MULTIPART),
    ],
)
def test_f46_an_empty_body_or_no_parts_is_400(site: Site, body: bytes, content_type: str) -> None:
    assert post(site, body, content_type=content_type).status == 400


@pytest.mark.parametrize(
    ("content_type", "headers"),
    [
        ('multipart/related; type="application/dicom+json"; boundary=b', {}),
        ('multipart/related; type="application/dicom+xml"; boundary=b', {}),
        ("multipart/form-data; boundary=b", {}),
        ("application/zip", {}),
        ("application/json", {}),
        ("", {}),
        (MULTIPART, {"Content_Encoding": "gzip"}),
        (MULTIPART, {"Content_Encoding": "deflate"}),
    ],
)
def test_f47_f56_other_content_types_and_encodings_are_415(
    site: Site, ingest: MemoryIngest, content_type: str, headers: dict[str, str]
) -> None:
    answer = post(site, body_of(FILES[0]), content_type=content_type, **headers)

    assert answer.status == 415
    assert not ingest.instances


@pytest.mark.parametrize("study", ["abc..%2f..%2fetc", "1..2", "1.2.", "x", "1..02", "1" * 65])
def test_f52_a_study_that_is_no_uid_is_400(site: Site, ingest: MemoryIngest, study: str) -> None:
    answer = post(site, body_of(FILES[0]), f"{STUDIES}/{study}")

    assert answer.status == 400
    assert not ingest.instances


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("PUT", STUDIES, 405),
        ("DELETE", f"{STUDIES}/1.2.3", 405),
        ("GET", STUDIES, 405),
        ("TRACE", STUDIES, 405),
        ("GET", f"{STUDIES}/1.2.3/series", 404),
        ("POST", "/dicom-web/instances", 404),
    ],
)
def test_f60b_other_methods_are_405_with_allow_and_other_paths_404(
    site: Site, method: str, path: str, status: int
) -> None:
    answer = site.request(method, path)

    assert answer.status == status
    if status == 405:
        assert set(answer.headers["allow"].split(", ")) == {"OPTIONS", "POST"}


def test_head_has_no_body(site: Site) -> None:
    answer = site.request("HEAD", STUDIES)

    assert (answer.status, answer.body) == (405, b"")


@pytest.mark.parametrize("path", ["/dicom-web/", STUDIES, f"{STUDIES}/1.2.3"])
def test_options_tells_what_is_offered(site: Site, path: str) -> None:
    answer = site.request("OPTIONS", path)

    studies = json.loads(answer.body)["application"]["resources"]["resource"][0]
    assert answer.headers["content-type"] == "application/json"
    assert studies["@path"] == "studies"
    assert studies["method"][0]["@name"] == "POST"


# --- the form of the answer -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("accept", "status", "content_type"),
    [
        (None, 200, "application/dicom+json"),
        ("*/*", 200, "application/dicom+json"),
        ("application/json", 200, "application/dicom+json"),
        ('multipart/related; type="application/dicom+json"', 200, "application/dicom+json"),
        ("application/dicom+xml", 200, "application/dicom+xml"),
        ("image/png", 406, "text/plain; charset=utf-8"),
    ],
)
def test_f60a_the_answer_is_json_unless_xml_is_asked(
    site: Site, accept: str | None, status: int, content_type: str
) -> None:
    answer = post(site, body_of(FILES[0]), **({"Accept": accept} if accept else {}))

    assert (answer.status, answer.headers["content-type"]) == (status, content_type)


def test_f60a_strict_service_wants_an_accept_header(ingest: MemoryIngest) -> None:
    with stow_site(ingest, strict_accept=True) as strict:
        without = post(strict, body_of(FILES[0]))
        having = post(strict, body_of(FILES[0]), Accept="*/*")

    assert (without.status, having.status) == (406, 200)


def test_an_answer_that_cannot_be_given_stores_nothing(site: Site, ingest: MemoryIngest) -> None:
    post(site, body_of(FILES[0]), Accept="image/png")

    assert not ingest.instances


def test_xml_is_the_native_dicom_model(site: Site) -> None:
    answer = post(site, body_of(b"garbage", FILES[0]), Accept="application/dicom+xml")

    root = ElementTree.fromstring(answer.body)
    stored = root.find("./DicomAttribute[@keyword='ReferencedSOPSequence']/Item")
    assert root.tag == "NativeDicomModel"
    assert stored is not None
    assert stored.attrib["number"] == "1"
    uid = stored.find("./DicomAttribute[@tag='00081155']/Value")
    reason = root.find(".//DicomAttribute[@vr='US']/Value")
    assert uid is not None
    assert uid.text == UIDS[0]
    assert reason is not None
    assert reason.text == "49152"


# --- associations and limits ----------------------------------------------------------------------


def test_a_request_is_one_association_that_was_released(
    site: Site, ingest: MemoryIngest, associations: MemoryAssociations
) -> None:
    post(site, body_of(*FILES))

    origin, end = associations.wait()
    assert len(associations.rows) == 1
    assert (origin.transport, origin.address, end) == ("stow", "127.0.0.1", "released")
    assert {origin.association_id for origin in ingest.origins} == {"row-0"}


def test_a_client_that_hangs_up_leaves_an_aborted_association(
    site: Site, ingest: MemoryIngest, associations: MemoryAssociations
) -> None:
    body = body_of(FILES[0], FILES[1])
    head = f"POST {STUDIES} HTTP/1.1\r\nHost: n\r\nContent-Type: {MULTIPART}\r\n"

    with site.connect() as connection:
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body[:-100])

    assert associations.wait()[1] == "aborted"
    assert list(ingest.instances) == UIDS[:1]
    assert ingest.abandoned == 1


def test_a_silent_client_is_answered_408(ingest: MemoryIngest) -> None:
    head = f"POST {STUDIES} HTTP/1.1\r\nHost: n\r\nContent-Type: {MULTIPART}\r\n"

    with stow_site(ingest, limits=WebLimits(stow_idle_s=0.05)) as hasty, hasty.connect() as line:
        line.sendall(f"{head}Content-Length: 5000\r\n\r\n".encode() + body_of(FILES[0])[:500])
        answer = read_answer(line)

    assert answer.status == 408
    assert not ingest.instances


def test_an_index_that_is_locked_is_503(
    site: Site, ingest: MemoryIngest, associations: MemoryAssociations
) -> None:
    associations.is_down = True

    answer = post(site, body_of(FILES[0]))

    assert answer.status == 503
    assert "retry-after" in answer.headers
    assert not ingest.instances


def test_f53_a_content_length_beyond_the_limit_is_413_at_once(ingest: MemoryIngest) -> None:
    limits = WebLimits(max_stow_bytes=10_000)
    head = f"POST {STUDIES} HTTP/1.1\r\nHost: n\r\nContent-Type: {MULTIPART}\r\n"

    with stow_site(ingest, limits=limits) as small:
        answer = small.send(f"{head}Content-Length: {5 * 1024**3}\r\n\r\n".encode())

    assert answer.status == 413


def test_a_chunked_body_beyond_the_limit_is_413_and_read_no_further(ingest: MemoryIngest) -> None:
    limits = WebLimits(max_stow_bytes=len(body_of(FILES[0])) + 1000)
    head = f"POST {STUDIES} HTTP/1.1\r\nHost: n\r\nContent-Type: {MULTIPART}\r\n"
    body = b"\0" * 100_000
    chunks = f"{head}Transfer-Encoding: chunked\r\n\r\n{len(body):x}\r\n".encode() + body

    with stow_site(ingest, limits=limits) as small:
        answer = small.send(chunks)  # no last chunk: an endless body

    assert answer.status == 413


def test_f55_more_parts_than_the_limit_are_413(ingest: MemoryIngest) -> None:
    with stow_site(ingest, limits=WebLimits(max_stow_parts=1000)) as small:
        answer = post(small, body_of(*[b"x"] * 20_000))

    assert answer.status == 413


def test_more_requests_than_the_limit_are_503(ingest: MemoryIngest) -> None:
    head = f"POST {STUDIES} HTTP/1.1\r\nHost: n\r\nContent-Type: {MULTIPART}\r\n"

    with stow_site(ingest, limits=WebLimits(max_stow_requests=1)) as busy, busy.connect() as first:
        first.sendall(f"{head}Content-Length: 50000\r\n\r\n".encode() + bytes(HEAD_BYTES))

        def answer_of_another() -> Answer | None:
            answer = post(busy, body_of(FILES[0]))
            return answer if answer.status == 503 else None

        answer = wait_for("a refusal", answer_of_another)

    assert "retry-after" in answer.headers


def test_bodies_that_drip_keep_nobody_out(ingest: MemoryIngest) -> None:
    head = f"POST {STUDIES} HTTP/1.1\r\nHost: n\r\nContent-Type: {MULTIPART}\r\n"

    with stow_site(ingest, limits=WebLimits(max_stow_requests=1)) as site, ExitStack() as dripping:
        for _ in range(20):
            line = dripping.enter_context(site.connect())
            line.sendall(f"{head}Content-Length: 50000\r\n\r\n--x".encode())
        answers = [post(site, body_of(FILES[0])) for _ in range(3)]

    assert [answer.status for answer in answers] == [200] * 3


# --- durable while the next part comes --------------------------------------------------------------


class SlowDisk(MemoryIngest):
    """Makes the first part durable only once the second has begun to come."""

    def __init__(self) -> None:
        super().__init__()
        self.has_second = threading.Event()

    def begin_file(self, origin: Origin, **options: Any) -> MemoryArrival:
        arrival = super().begin_file(origin, **options)
        if len(self.origins) == 2:
            self.has_second.set()
        elif len(self.origins) == 1:
            finish = arrival.finish

            def wait() -> Receipt:
                assert self.has_second.wait(PATIENCE_S)
                return finish()

            arrival.finish = wait  # type: ignore[method-assign]
        return arrival


def test_the_next_part_comes_while_one_is_made_durable() -> None:
    ingest = SlowDisk()
    with stow_site(ingest) as site:
        answer = post(site, body_of(*FILES))

    assert answer.status == 200
    assert uids(response_of(answer).ReferencedSOPSequence) == UIDS
