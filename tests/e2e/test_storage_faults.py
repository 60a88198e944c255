"""What is under the node fails: senders are told, the node says which, and recovers by itself (C6)."""

from __future__ import annotations

import json
import sqlite3
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from node.domain.uids import file_stem
from tests.support import postgresql
from tests.support.disks import SmallDisk, small_disk
from tests.support.http_server import MULTIPART, Site, body_of
from tests.support.instances import ct_slice, data_set_bytes, part10_bytes
from tests.support.peers import Node, echo
from tests.support.raw_dimse import (
    ASSOCIATE_AC,
    CT_IMAGE_STORAGE,
    EXPLICIT_VR_LITTLE_ENDIAN,
    RawAssociation,
    status,
)
from tests.support.waiting import wait_for

pytestmark = pytest.mark.long

MB = 1_000_000
RULES = [{"name": "none", "when": {"slices": {"min": 900}}, "run": "ct_tissue"}]
REFUSED = "refused"
KEEP_20_MB = {"reserve_gb": 0.02, "max_used_percent": 100}


@dataclass
class Sender:
    """Counts what it was told is stored."""

    node: Node
    number: int = 0
    acknowledged: set[str] = field(default_factory=set)

    def store(self) -> int | str:
        """A new instance by C-STORE: its status, or that nobody came in."""
        image = self._next()
        with RawAssociation(self.node.dicom_port, timeout_s=60) as association:
            answer = association.request([(CT_IMAGE_STORAGE, [EXPLICIT_VR_LITTLE_ENDIAN])])
            if answer.kind != ASSOCIATE_AC:
                return REFUSED
            uid = str(image.SOPInstanceUID)
            code = status(association.store(data_set_bytes(image), uid))
            if code == 0:
                self.acknowledged.add(uid)
            association.release()
            return code

    def post(self) -> int:
        """A new instance by STOW-RS: the HTTP status."""
        image = self._next()
        site, body = Site(self.node.http_port), body_of(part10_bytes(image))
        answer = site.request("POST", "/dicom-web/studies", body, {"Content-Type": MULTIPART})
        if answer.status == 200:
            self.acknowledged.add(str(image.SOPInstanceUID))
        return answer.status

    def _next(self) -> Any:
        self.number += 1
        return ct_slice(self.number, side=256)


def get(node: Node, path: str) -> tuple[int, dict[str, Any]]:
    try:
        with urllib.request.urlopen(node.url + path, timeout=30) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


@dataclass
class Fault:
    """One thing that goes wrong, and what ``/readyz`` says of it."""

    node: Node
    begin: Callable[[], object]
    end: Callable[[], object]
    about: str
    says: str


@contextmanager
def full(folder: Path) -> Iterator[Fault]:
    with small_disk(folder / "node" / "data") as disk:
        node = Node(folder / "node", {"rules": RULES, "storage": KEEP_20_MB})
        filler = disk.folder / "filler"
        yield Fault(
            node, lambda: disk.leave_free(15 * MB), filler.unlink, "disk", "kept in reserve"
        )


@contextmanager
def without_inodes(folder: Path) -> Iterator[Fault]:
    with small_disk(folder / "node" / "data", inodes=1000) as disk:
        node = Node(folder / "node", {"rules": RULES})
        yield Fault(
            node,
            lambda: take_inodes(disk),
            lambda: [path.unlink() for path in disk.folder.glob("taken*")],
            "disk",
            "inodes free",
        )


def take_inodes(disk: SmallDisk) -> None:
    number = 0
    while disk.free_inodes > 50:
        number += 1
        (disk.folder / f"taken{number}").touch()


@contextmanager
def read_only(folder: Path) -> Iterator[Fault]:
    with small_disk(folder / "node" / "data" / "spool") as disk:
        node = Node(folder / "node", {"rules": RULES})
        yield Fault(
            node, lambda: disk.remount("ro"), lambda: disk.remount("rw"), "disk", "read-only"
        )


@contextmanager
def renamed_away(folder: Path) -> Iterator[Fault]:
    node = Node(folder / "node", {"rules": RULES})
    spool, away = node.data_dir / "spool", node.data_dir / "away"
    yield Fault(
        node, lambda: spool.rename(away), lambda: away.rename(spool), "disk", "cannot be used"
    )


@contextmanager
def locked(folder: Path) -> Iterator[Fault]:
    node = Node(folder / "node", {"rules": RULES})
    held: list[sqlite3.Connection] = []

    def lock() -> None:
        held.append(sqlite3.connect(node.data_dir / "segnode.sqlite", isolation_level=None))
        held[0].execute("PRAGMA busy_timeout = 20000")
        held[0].execute("BEGIN IMMEDIATE")

    def free() -> None:
        held[0].execute("ROLLBACK")
        held[0].close()

    yield Fault(node, lock, free, "database", "locked")


@contextmanager
def stopped(folder: Path) -> Iterator[Fault]:
    binaries = postgresql.programs()
    if binaries is None:
        pytest.skip("PostgreSQL is not installed: make peers")
    with postgresql.server(binaries) as url:
        database = postgresql.new_database(url, "faults")
        node = Node(folder / "node", {"rules": RULES, "database": database})
        yield Fault(
            node,
            lambda: postgresql.stop(database),
            lambda: postgresql.start(database),
            "database",
            "cannot be reached",
        )


@pytest.mark.parametrize(
    "fault_of", [full, without_inodes, read_only, renamed_away, locked, stopped]
)
def test_senders_are_told_the_node_says_which_and_recovers_by_itself(
    fault_of: Callable[[Path], Any], tmp_path: Path
) -> None:
    with ExitStack() as stack:
        fault: Fault = stack.enter_context(fault_of(tmp_path))
        node = stack.enter_context(fault.node)
        sender = Sender(node)
        assert (sender.store(), sender.post()) == (0, 200)
        wait_for("the node", lambda: get(node, "/readyz")[0] == 200)

        fault.begin()
        try:
            code, body = wait_for(
                "it to say so", lambda: (told := get(node, "/readyz"))[0] == 503 and told
            )
            stored, posted = sender.store(), sender.post()
            alive = get(node, "/healthz")[0], echo(node.dicom_port)
        finally:
            fault.end()

        assert stored in (0xA700, REFUSED)
        assert (code, posted, alive) == (503, 503, (200, 0))
        assert fault.says in body["degraded"][fault.about]
        wait_for("the node again", lambda: get(node, "/readyz")[0] == 200)
        wait_for("an instance again", lambda: sender.store() == 0)
        wait_for("a request again", lambda: sender.post() == 200)
        all_of_it = sender.acknowledged
        wait_for("all rows", lambda: kept(node, all_of_it) == len(all_of_it))
        assert list((node.data_dir / "spool" / "incoming").iterdir()) == []
        # those that only work on rows may end for want of a database; doors never do
        ended = [line for line in node.log().splitlines() if "role ended" in line]
        assert not [line for line in ended if "role=receive" in line or "role=web" in line]


def kept(node: Node, acknowledged: set[str]) -> int:
    """How many instances have rows, once each that was acknowledged has its file."""
    series = node.api("/series")["items"][0]
    stems = {path.stem for path in (node.data_dir / "spool" / "instances").rglob("*.dcm")}
    assert stems == {file_stem(uid) for uid in acknowledged}
    return int(series["instances"])


@pytest.mark.parametrize("below", ["", "spool"])
def test_a_node_whose_data_folder_is_read_only_says_what_to_do(below: str, tmp_path: Path) -> None:
    node = Node(tmp_path / "node", {"rules": RULES})
    with small_disk(node.data_dir / below) as disk:
        disk.remount("ro")
        node.start(wait=False)
        assert node.process is not None
        code, log = node.process.wait(60), node.log()

    assert code == 2
    assert f"data_dir: {node.data_dir} cannot be written to (read-only file system)" in log
    assert "Traceback" not in log
