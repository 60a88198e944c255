"""Hostile and broken HTTP: each is answered or cut off, and the next request is served."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import threading
from collections.abc import Iterator

import pytest

from node.domain.limits import WebLimits
from node.receive.stow import HEAD_BYTES
from node.receive.stow_parts import BUFFERED_BYTES, BodyPipe
from node.web import server
from tests.support.http_server import (
    BOUNDARY,
    MULTIPART,
    MemoryAssociations,
    MemoryIngest,
    Site,
    body_of,
    read_answer,
    stow_site,
)
from tests.support.phantoms import Phantom
from tests.support.waiting import eventually

STUDIES = "/dicom-web/studies"
FILE = Phantom(shape=(1, 16, 12)).files()[0]
HEAD = f"POST {STUDIES} HTTP/1.1\r\nHost: node\r\nContent-Type: {MULTIPART}\r\n"


@pytest.fixture(scope="module")
def shared() -> Iterator[tuple[Site, MemoryIngest, MemoryAssociations]]:
    ingest, associations = MemoryIngest(), MemoryAssociations()
    with stow_site(ingest, associations) as running:
        yield running, ingest, associations


@pytest.fixture
def ingest(shared: tuple[Site, MemoryIngest, MemoryAssociations]) -> MemoryIngest:
    shared[1].clear()
    return shared[1]


@pytest.fixture
def site(
    shared: tuple[Site, MemoryIngest, MemoryAssociations], ingest: MemoryIngest
) -> Iterator[Site]:
    yield shared[0]
    alive = shared[0].request("POST", STUDIES, body_of(FILE), {"Content-Type": MULTIPART})
    assert alive.status == 200


@pytest.mark.parametrize(
    "head",
    [
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        "Content-Length: 5\r\nContent-Length: 6\r\n",
        "Content-Length: -1\r\n",
        "Content-Length: 0x10\r\n",
    ],
)
def test_f54_contradicting_lengths_are_400(site: Site, ingest: MemoryIngest, head: str) -> None:
    answer = site.send(f"{HEAD}{head}\r\n5\r\nhello\r\n0\r\n\r\n".encode())

    assert answer.status == 400
    assert not ingest.instances


@pytest.mark.parametrize("size", ["FFFFFFFFFFFFFFFFF", "-1", "x", ""])
def test_f54_an_impossible_chunk_size_is_400(site: Site, ingest: MemoryIngest, size: str) -> None:
    answer = site.send(f"{HEAD}Transfer-Encoding: chunked\r\n\r\n{size}\r\nhello".encode())

    assert answer.status == 400
    assert not ingest.instances


def test_f53_a_length_shorter_than_the_body_stores_nothing(
    site: Site, ingest: MemoryIngest
) -> None:
    answer = site.send(f"{HEAD}Content-Length: 300\r\n\r\n".encode() + body_of(FILE))

    assert answer.status == 400
    assert not ingest.instances


@pytest.mark.parametrize(
    "fields",
    [
        "".join(f"X-{n}: {n}\r\n" for n in range(10_000)),
        "X: " + "y" * 100_000 + "\r\n",
        "x" * 100_000 + ": y\r\n",
    ],
    ids=["10 000 fields", "long value", "long name"],
)
@pytest.mark.parametrize("ending", ["Content-Length: 0\r\n\r\n", ""], ids=["whole", "endless"])
def test_f55_header_fields_beyond_the_limit_are_431(site: Site, fields: str, ending: str) -> None:
    with site.connect() as line:
        line.sendall(f"{HEAD}{fields}{ending}".encode())
        assert read_answer(line).status == 431


def test_f55_a_boundary_inside_pixel_data_does_not_end_the_part(
    site: Site, ingest: MemoryIngest
) -> None:
    tricky = bytearray(FILE)
    text = f"\r\n--{BOUNDARY}x\r\n--{BOUNDARY}".encode()
    tricky[-len(text) - 2 : -2] = text

    answer = site.request("POST", STUDIES, body_of(bytes(tricky)), {"Content-Type": MULTIPART})

    assert answer.status == 200
    assert list(ingest.instances.values()) == [bytes(tricky)]


def test_f56_a_gzip_bomb_is_415_without_a_look(site: Site, ingest: MemoryIngest) -> None:
    bomb = gzip.compress(bytes(50_000_000))

    answer = site.request(
        "POST", STUDIES, bomb, {"Content-Type": MULTIPART, "Content-Encoding": "gzip"}
    )

    assert answer.status == 415
    assert not ingest.origins


def test_f56_a_zip_as_a_part_fails_alone(site: Site) -> None:
    zipped = body_of(b"PK\x03\x04" + bytes(500), part_headers="Content-Type: application/zip")

    assert site.request("POST", STUDIES, zipped, {"Content-Type": MULTIPART}).status == 409


@pytest.mark.parametrize("root", ["application/dicom+json", "application/dicom+xml"])
def test_f48_a_bulk_data_uri_is_never_fetched(site: Site, root: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as elsewhere:
        elsewhere.settimeout(0.2)
        uri = f"http://127.0.0.1:{elsewhere.getsockname()[1]}/latest/meta-data"
        metadata = json.dumps([{"7FE00010": {"vr": "OW", "BulkDataURI": uri}}]).encode()
        whole = body_of(metadata, part_headers=f"Content-Type: {root}")
        variant = MULTIPART.replace('"application/dicom"', f'"{root}"')

        answers = [
            site.request("POST", STUDIES, whole, {"Content-Type": content_type})
            for content_type in (variant, MULTIPART)
        ]

        assert [answer.status for answer in answers] == [415, 409]
        with pytest.raises(TimeoutError):
            elsewhere.accept()


@pytest.mark.parametrize(
    "data",
    [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"\x01\x00\x00\x00\x00\xcd", b"GET\r\n\r\n"],
    ids=["TLS", "A-ASSOCIATE-RQ", "no version"],
)
def test_what_is_no_http_is_400_or_cut_off(site: Site, data: bytes) -> None:
    with site.connect() as line:
        line.sendall(data + b"\r\n\r\n")
        answer = line.recv(1000)

    assert not answer or answer.startswith(b"HTTP/1.1 400")


def test_f52_a_path_that_climbs_is_400_or_404(site: Site) -> None:
    for path in ("/studies/../../etc", "/studies/%2e%2e/x", "/studies/1.2%00", "//studies"):
        answer = site.request("POST", f"/dicom-web{path}", b"", {"Content-Type": MULTIPART})
        assert answer.status in (400, 404), path


def test_f57_headers_that_drip_are_cut_off() -> None:
    with stow_site(MemoryIngest(), limits=WebLimits(header_s=0.1)) as site, site.connect() as line:
        line.sendall(b"POST ")
        assert line.recv(100) == b""


def test_an_early_answer_reaches_a_client_that_is_still_sending(site: Site) -> None:
    body = bytes(8 * 1024**2)
    head = f"POST {STUDIES} HTTP/1.1\r\nHost: node\r\nContent-Type: text/plain\r\n"

    with site.connect() as line:
        line.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        assert read_answer(line).status == 415


def test_a_client_that_sends_for_ever_after_its_answer_is_cut_off(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "DISCARDED_BYTES", 1_000_000)
    head = f"POST {STUDIES} HTTP/1.1\r\nHost: node\r\nContent-Type: text/plain\r\n"

    with site.connect() as line:
        line.sendall(f"{head}Content-Length: {1 << 40}\r\n\r\n".encode())
        with pytest.raises(ConnectionError):
            send_for_ever(line)


def send_for_ever(line: socket.socket) -> None:
    for _ in range(10_000):
        line.sendall(bytes(100_000))


def test_a_slow_disk_holds_the_client_back_at_a_fixed_amount_of_memory() -> None:
    async def fill() -> int:
        pipe = BodyPipe(asyncio.get_running_loop())
        filling = asyncio.create_task(put_all(pipe))
        await asyncio.sleep(0.01)
        assert not filling.done()
        size = pipe.waiting_bytes
        reader = threading.Thread(target=lambda: received.extend(pipe.pieces()))
        reader.start()
        await asyncio.wait_for(filling, 10)
        pipe.end(is_whole=True)
        await asyncio.to_thread(reader.join)
        return size

    async def put_all(pipe: BodyPipe) -> None:
        for _ in range(200):
            assert await pipe.put(bytes(100_000))

    received: list[bytes] = []
    held = asyncio.run(fill())

    assert held < BUFFERED_BYTES + 100_000
    assert sum(map(len, received)) == 20_000_000


def test_a_long_request_keeps_its_association_alive(
    ingest: MemoryIngest, monkeypatch: pytest.MonkeyPatch
) -> None:
    associations = MemoryAssociations()
    monkeypatch.setattr("node.receive.stow_parts.HEARTBEAT_S", 0.02)
    body = bytes(HEAD_BYTES) + body_of(FILE)  # a preamble, which is ignored (RFC 2046 5.1.1)

    with stow_site(ingest, associations) as slow, slow.connect() as line:
        line.sendall(f"{HEAD}Content-Length: {len(body)}\r\n\r\n".encode() + body[:-100])
        assert eventually(lambda: associations.heartbeats >= 2)
        line.sendall(body[-100:])
        answer = read_answer(line)

    assert answer.status == 200
