"""Eight senders for minutes, and ``kill -9`` all the while: ``python -m tests.bench soak``.

Six send by C-STORE and two by STOW-RS, series after series, each again until all of it is acknowledged,
as a PACS does. Every ten seconds one role is killed, in turn; in the first half ``route`` and the whole
node as well. Afterwards all that was acknowledged must be on disk byte for byte and in the index, and every
twentieth series, which a rule takes, must have led to one SEG of all its slices. Then they send for a
tenth of the time again and nothing is killed: what ``route`` has more of at rest, it keeps of what it settled.
"""

from __future__ import annotations

import http.client
import os
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from io import BytesIO
from itertools import count, cycle
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event, Lock, Thread

from pydicom import dcmread

from tests.bench.processes import anonymous_mb
from tests.bench.report import Goal, Report, Row
from tests.support import raw_dimse as raw
from tests.support.http_server import MULTIPART, body_of
from tests.support.peers import Node
from tests.support.phantoms import Phantom
from tests.support.raw_dimse import RawAssociation
from tests.support.waiting import wait_for

DIMSE_SENDERS, STOW_SENDERS = 6, 2
SLICES = 12
WORK_EVERY = 20
KILL_EVERY_S = 10.0
# PS3.5 9.1: components of one length, so that bytes of a file can be replaced by others
_ROOT = "1.2.826.0.1.3680043.8.498.77"
_STUDY, _SERIES, _IMAGE = f"{_ROOT}.1.19999999", f"{_ROOT}.2.19999999", f"{_ROOT}.3.19999999."
_PLAIN, _WORK = b"PLAIN ", b"WORK  "
_PROLOGUE = 144  # preamble, prefix, and the element that tells the length of group 0002
_ALL = ("receive", "web", "work cpu", "deliver", "route", "everything")
_LATER = ("receive", "web", "work cpu", "deliver")


@dataclass(frozen=True)
class Image:
    """One instance: as a file, and its data set as it travels by C-STORE."""

    uid: str
    file: bytes
    data: bytes


@dataclass(eq=False)
class Ledger:
    """What was acknowledged, and when; shared by the senders."""

    kept: dict[str, bytes] = field(default_factory=dict)
    at_s: list[float] = field(default_factory=list)
    whole: set[str] = field(default_factory=set)
    work: set[str] = field(default_factory=set)
    broken: int = 0
    lock: Lock = field(default_factory=Lock)

    def note(self, image: Image) -> None:
        with self.lock:
            self.kept[image.uid] = image.data
            self.at_s.append(time.monotonic())


def _template() -> list[bytes]:
    """A small CT, its UIDs and its description replaced by words of a fixed length."""
    files = []
    phantom = Phantom(shape=(SLICES, 56, 72), spacing_mm=(12.0, 5.0, 6.0))
    for index, content in enumerate(phantom.files()):
        image = dcmread(BytesIO(content))
        image.StudyInstanceUID, image.SeriesInstanceUID = _STUDY, _SERIES
        image.SOPInstanceUID = f"{_IMAGE}{100 + index}"
        image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
        image.SeriesDescription = _PLAIN.decode()
        buffer = BytesIO()
        image.save_as(buffer, enforce_file_format=True)
        files.append(buffer.getvalue())
    return files


def _series(template: list[bytes], number: int) -> tuple[str, list[Image]]:
    """The series of that number."""
    fresh = str(20_000_000 + number).encode()
    images = []
    for index, old in enumerate(template):
        content = old.replace(b".19999999", b"." + fresh)
        if number % WORK_EVERY == 0:
            content = content.replace(_PLAIN, _WORK)
        start = _PROLOGUE + int.from_bytes(content[140:144], "little")
        uid = f"{_IMAGE}{100 + index}".replace("19999999", fresh.decode())
        images.append(Image(uid, content, content[start:]))
    return _SERIES.replace("19999999", fresh.decode()), images


# --- senders -----------------------------------------------------------------------------------------


def _by_store(node: Node, images: list[Image], ledger: Ledger) -> bool:
    """Send a series over one association; whether all of it was acknowledged."""
    with RawAssociation(node.dicom_port, timeout_s=60) as association:
        offer = ((raw.CT_IMAGE_STORAGE, (raw.EXPLICIT_VR_LITTLE_ENDIAN,)),)
        if association.request(offer).kind != raw.ASSOCIATE_AC:
            return False
        for image in images:
            if raw.status(association.store(image.data, image.uid)) != 0:
                return False
            ledger.note(image)
        return association.release().kind == raw.RELEASE_RP


def _by_stow(node: Node, images: list[Image], ledger: Ledger) -> bool:
    """Send a series as one request; whether it was answered 200."""
    body = body_of(*(image.file for image in images))
    with closing(http.client.HTTPConnection("127.0.0.1", node.http_port, timeout=60)) as line:
        line.request("POST", "/dicom-web/studies", body, {"Content-Type": MULTIPART})
        if line.getresponse().status != 200:
            return False
    for image in images:
        ledger.note(image)
    return True


def _send(node: Node, ledger: Ledger, numbers: Iterator[int], stop: Event, *, stow: bool) -> None:
    template = _template()
    send = _by_stow if stow else _by_store
    while not stop.is_set():
        number = next(numbers)
        uid, images = _series(template, number)
        if number % WORK_EVERY == 0:
            ledger.work.add(uid)
        # what was begun is sent whole, also after the time
        while True:
            with suppress(OSError, http.client.HTTPException, AssertionError, EOFError):
                if send(node, images, ledger):
                    break
            ledger.broken += 1
            time.sleep(0.2)
        ledger.whole.add(uid)


# --- killing -----------------------------------------------------------------------------------------


def _latest(node: Node, role: str) -> int:
    lines = [line for line in node.log().splitlines() if f"role={role} child" in line]
    return int(lines[-1].rsplit("child=", 1)[1])


def _kill(node: Node, victim: str) -> None:
    if victim == "everything":
        node.kill()
        node.start(wait=False)
    else:
        with suppress(ProcessLookupError):
            os.kill(_latest(node, victim), signal.SIGKILL)


# --- measuring ---------------------------------------------------------------------------------------


def measure(*, minutes: float = 10.0) -> list[Report]:
    """Soak, then compare with what was acknowledged."""
    with TemporaryDirectory(prefix="segnode-soak-") as folder:
        return [_soak(Path(folder), minutes)]


def _soak(folder: Path, minutes: float) -> Report:
    out = folder / "out"
    out.mkdir()
    rule = {"name": "work", "when": {"SeriesDescription": "WORK"}, "run": "ct_tissue"}
    node = Node(
        folder / "node",
        {
            "dimse": {"processes": 1},
            "destinations": {"out": {"kind": "folder", "path": str(out)}},
            "rules": [{**rule, "send": ["out"]}],
        },
    ).start()
    ledger, numbers = Ledger(), count(1)
    kills: Counter[str] = Counter()
    try:
        began_s = time.monotonic()
        with _sending(node, ledger, numbers):
            _kill_on(node, kills, began_s + minutes * 30, began_s + minutes * 60)
        spent_s = time.monotonic() - began_s
        rest = [_at_rest(node, ledger)]
        with _sending(node, ledger, numbers):
            time.sleep(minutes * 6)
        rest.append(_at_rest(node, ledger))
        found = _compared(node, ledger, out)
    finally:
        if node.process is not None:
            node.kill()
    return _report(ledger, kills, rest, began_s, minutes, spent_s, found)


@contextmanager
def _sending(node: Node, ledger: Ledger, numbers: Iterator[int]) -> Iterator[None]:
    """All senders at work meanwhile."""
    stop = Event()
    senders = [
        Thread(target=_send, args=(node, ledger, numbers, stop), kwargs={"stow": number < STOW_SENDERS})
        for number in range(DIMSE_SENDERS + STOW_SENDERS)
    ]  # fmt: skip
    for sender in senders:
        sender.start()
    try:
        yield
    finally:
        stop.set()
        for sender in senders:
            sender.join()


def _kill_on(node: Node, kills: Counter[str], half_s: float, end_s: float) -> None:
    """Kill in turn until the end; in the second half neither ``route`` nor everything."""
    first, later = cycle(_ALL), cycle(_LATER)
    while (now_s := time.monotonic()) < end_s:
        time.sleep(min(KILL_EVERY_S, end_s - now_s))
        victim = next(first if time.monotonic() < half_s else later)
        _kill(node, victim)
        kills[victim] += 1


def _ask(node: Node, question: str) -> list[tuple[object, ...]]:
    database = node.data_dir / "segnode.sqlite"
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=30)) as line:
        return line.execute(question).fetchall()


def _at_rest(node: Node, ledger: Ledger) -> tuple[int, float]:
    """Wait until all that was acknowledged is settled: how much that is, and MB of ``route``."""
    open_ = "SELECT count(*) FROM series WHERE state <> 'complete'"
    known = "SELECT count(*) FROM series"
    wait_for(
        "every series",
        lambda: _ask(node, known)[0][0] == len(ledger.whole) and _ask(node, open_)[0][0] == 0,
        timeout_s=1200,
    )
    return len(ledger.kept), anonymous_mb(_latest(node, "route"))


def _compared(node: Node, ledger: Ledger, out: Path) -> Row:
    """What is there beside what was acknowledged."""
    segs = lambda: list(out.rglob("*.dcm"))  # noqa: E731
    with suppress(AssertionError):
        wait_for("every result", lambda: len(segs()) >= len(ledger.work), timeout_s=300)
    first_ones = _ask(node, "SELECT sop_instance_uid, file_name FROM instance WHERE version = 1")
    rows = dict(first_ones)
    lost = [uid for uid in ledger.kept if uid not in rows]
    instances = node.data_dir / "spool" / "instances"
    different = [
        uid
        for uid, data in ledger.kept.items()
        if uid in rows and (instances / str(rows[uid])).read_bytes()[2048:] != data
    ]
    sources = Counter(_source_of(path) for path in segs())
    return {
        "lost": len(lost),
        "different": len(different),
        "second versions": len(_ask(node, "SELECT 1 FROM instance WHERE version > 1")),
        "results": sources.total(),
        "not once": sum(sources[(uid, SLICES)] != 1 for uid in ledger.work),
    }


def _source_of(path: Path) -> tuple[str, int]:
    """The series of a SEG and how many of its images it names."""
    result = dcmread(path, stop_before_pixels=True)
    series = result.ReferencedSeriesSequence[0]
    return str(series.SeriesInstanceUID), len(series.ReferencedInstanceSequence)


def _report(
    ledger: Ledger,
    kills: Counter[str],
    rest: list[tuple[int, float]],
    began_s: float,
    minutes: float,
    spent_s: float,
    found: Row,
) -> Report:
    span_s = min(60.0, minutes * 30)
    end_s = began_s + minutes * 60
    first = sum(began_s <= at < began_s + span_s for at in ledger.at_s)
    last = sum(end_s - span_s <= at < end_s for at in ledger.at_s)
    (settled, before_mb), (all_settled, after_mb) = rest
    kept_bytes = (after_mb - before_mb) * 1e6 / max(all_settled - settled, 1)
    row: Row = {
        "acknowledged": len(ledger.kept),
        "per s": settled / spent_s,
        "first minute": first,
        "last minute": last,
        "attempts broken": ledger.broken,
        "kills": kills.total(),
        "route MB": after_mb,
        "bytes per instance": kept_bytes,
        **found,
    }
    goals = [
        Goal(claim="acknowledged and lost", figure=float(found["lost"]), limit=0),
        Goal(claim="acknowledged and different", figure=float(found["different"]), limit=0),
        Goal(claim="series without exactly one whole result", figure=float(found["not once"]), limit=0),
        Goal(claim="last minute / first", figure=last / max(first, 1), limit=0.9, at_least=True),
        Goal(claim="bytes that route keeps of a settled instance", figure=kept_bytes, limit=100),
    ]  # fmt: skip
    title = f"{minutes:g} minutes, {DIMSE_SENDERS} C-STORE and {STOW_SENDERS} STOW senders"
    return Report(part="soak", title=title, rows=[row], goals=goals)
