"""The working half of a STOW-RS request: from the bytes of its body to instances and an outcome.

Plain blocking code for one worker thread per request: writing, hashing and syncing files must not
hold up the event loop that serves everybody else. ``BodyPipe`` leads from the loop to the thread.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from itertools import chain
from time import monotonic
from typing import Final

from node.domain.errors import InstanceRejected, NodeError, Status, TryLater, is_out_of_resources
from node.domain.instance import Ending, Origin
from node.domain.limits import WebLimits
from node.observe import counts
from node.receive.ingest import Arrival, Carried, Ingest, Receipt
from node.receive.mime import (
    Event,
    MediaTypeMalformed,
    MultipartMalformed,
    MultipartReader,
    PartEnded,
    PartStarted,
    parse_media_type,
)
from node.receive.store import HEARTBEAT_S, AssociationLog

DICOM_TYPE = "application/dicom"
BUFFERED_BYTES: Final = 2 * 1024**2
# complete parts of one request that wait to be durable
BEHIND: Final = 4

_BINARY_ENCODINGS = frozenset({"", "binary", "8bit", "7bit"})


class RequestRefused(NodeError):
    """The whole request is refused with an HTTP status; the client must change or repeat it."""

    def __init__(
        self, status: HTTPStatus, reason: str, *, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(f"{reason} ({status})")
        self.status = status
        self.reason = reason
        self.headers = headers or {}


class BodyPipe:
    """Carries a body from the event loop to a thread, and holds the loop's reader back when full."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._changed = threading.Condition()
        self._pieces: deque[bytes] = deque()
        self._size_bytes = 0
        self._ended = False
        self._left = False
        self._room = asyncio.Event()
        self.is_whole = False

    async def put(self, piece: bytes) -> bool:
        """Append a piece, waiting for room; False when nobody reads any more."""
        with self._changed:
            if self._left:
                return False
            self._pieces.append(piece)
            self._size_bytes += len(piece)
            self._changed.notify()
            if self._size_bytes < BUFFERED_BYTES:
                return True
            self._room.clear()
        await self._room.wait()
        return True

    def end(self, *, is_whole: bool = False) -> None:
        """No more pieces come; the first call decides whether the body is whole."""
        with self._changed:
            if not self._ended:
                self._ended, self.is_whole = True, is_whole
            self._changed.notify()

    def leave(self) -> None:
        """Nobody reads any more: called in the event loop."""
        with self._changed:
            self._left = True
            self._pieces.clear()
        self._room.set()

    @property
    def waiting_bytes(self) -> int:
        """What has come and was not taken yet."""
        with self._changed:
            return self._size_bytes

    def pieces(self) -> Iterator[bytes]:
        """What was put, in order; an empty piece whenever ``HEARTBEAT_S`` passed without any."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._pieces or self._ended, HEARTBEAT_S)
                taken, is_over = list(self._pieces), self._ended
                self._pieces.clear()
                self._size_bytes = 0
            with suppress(RuntimeError):  # the loop is closed: nobody waits for room
                self._loop.call_soon_threadsafe(self._room.set)
            yield from taken
            if is_over:
                return
            if not taken:
                yield b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A part that is not kept, as the answer tells it; its error would hold on to all that it met."""

    sop_class_uid: str
    sop_instance_uid: str
    dimse_status: int


@dataclass(slots=True, kw_only=True)
class Reply:
    """What became of a request and of each of its parts, in their order.

    Args:
        stored: What is kept, by this request or by one before.
        carried: What the row of the request counts.
        association_id: The row that is still open; empty where there is none.
        ending: How that row ends: released where the request was well formed to its end.
        refused_with: The status of a request that was not read to its end, and ``reason`` says why.
    """

    stored: list[Receipt] = field(default_factory=list)
    failed: list[Failure] = field(default_factory=list)
    carried: Carried = field(default_factory=Carried)
    association_id: str = ""
    ending: Ending = Ending.ABORTED
    refused_with: HTTPStatus | None = None
    reason: str = ""

    @property
    def status(self) -> HTTPStatus:
        """Source: PS3.18 Table 10.5.3-1."""
        if self.refused_with is not None:
            return self.refused_with
        if not self.failed:
            return HTTPStatus.OK
        if self.stored:
            return HTTPStatus.ACCEPTED
        if any(is_out_of_resources(failure.dimse_status) for failure in self.failed):
            return HTTPStatus.SERVICE_UNAVAILABLE
        return HTTPStatus.CONFLICT

    @property
    def is_empty(self) -> bool:
        """Whether no part was dealt with."""
        return not self.stored and not self.failed


class PartTaker:
    """Hands the parts of one request to the ingest, one after the other.

    A part is made durable while the next ones come, by a thread of its own, ``BEHIND`` of them at most: to
    wait for the disk after each would take most of the time, and nothing is answered before the last is
    durable. In their order, since of two under one UID the first, or the newest header, counts.
    """

    def __init__(
        self,
        ingest: Ingest,
        origin: Origin,
        study_instance_uid: str | None,
        limits: WebLimits,
    ) -> None:
        self.reply = Reply(association_id=origin.association_id)
        self._ingest = ingest
        self._origin = origin
        self._study_instance_uid = study_instance_uid
        self._limits = limits
        self._finisher: Executor | None = None
        self._finishing: deque[Future[Receipt]] = deque()
        self._parts = 0
        self._arrival: Arrival | None = None

    def take(self, event: Event) -> None:
        """Deal with one event of the reader; a part that fails never stops those after it.

        Raises:
            RequestRefused: More parts than one request may have.
        """
        try:
            if isinstance(event, PartStarted):
                self._start(event)
            elif isinstance(event, PartEnded):
                self._end()
            elif self._arrival is not None:
                self._arrival.write(event)
        except InstanceRejected as rejected:
            self._fail(rejected)
        except TryLater as short:
            self._fail(_no_room(short))

    def end(self) -> None:
        """Wait until every complete part is durable or refused; one that is not complete is lost."""
        while self._finishing:
            self._note_oldest()
        if self._arrival is not None:
            self._lose()
        if self._finisher is not None:
            self._finisher.shutdown()

    def _start(self, part: PartStarted) -> None:
        self._parts += 1
        most = self._limits.max_stow_parts
        if self._parts > most:
            raise RequestRefused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"more than {most} parts")
        source = f"part {self._parts} of request {self._origin.association_id}"
        try:
            _require_dicom(part)
        except InstanceRejected as rejected:
            self._ingest.record_loss(rejected, self._origin, source=source)
            raise
        self._arrival = self._ingest.begin_file(
            self._origin,
            study_instance_uid=self._study_instance_uid,
            source=source,
            is_kept_aside=len(self.reply.failed) + len(self._finishing)
            < self._limits.max_stow_parts_aside,
        )

    def _end(self) -> None:
        """The part is complete: have it made durable."""
        if self._arrival is None:
            return
        arrival, self._arrival = self._arrival, None
        if self._finisher is None:
            self._finisher = ThreadPoolExecutor(1, thread_name_prefix="stow-finish")
        self._finishing.append(self._finisher.submit(_finished, arrival))
        if len(self._finishing) > BEHIND:
            self._note_oldest()

    def _note_oldest(self) -> None:
        try:
            receipt = self._finishing.popleft().result()
        except InstanceRejected as rejected:
            self._note_failure(rejected)
        else:
            self.reply.carried.note(receipt)
            self.reply.stored.append(receipt)

    def _fail(self, rejected: InstanceRejected) -> None:
        """The part that comes is refused already; those before it are told first."""
        while self._finishing:
            self._note_oldest()
        self._note_failure(rejected)
        arrival, self._arrival = self._arrival, None
        if arrival is not None:
            arrival.abandon()

    def _note_failure(self, rejected: InstanceRejected) -> None:
        self.reply.carried.losses += 1
        counts.add(counts.INSTANCES_REFUSED, "stow", f"{rejected.dimse_status:04X}")
        self.reply.failed.append(
            Failure(
                sop_class_uid=rejected.sop_class_uid,
                sop_instance_uid=rejected.sop_instance_uid,
                dimse_status=rejected.dimse_status,
            )
        )

    def _lose(self) -> None:
        self.reply.carried.losses += 1
        arrival, self._arrival = self._arrival, None
        if arrival is not None:
            arrival.abandon()


def _finished(arrival: Arrival) -> Receipt:
    """Make an instance durable, wherever it is done.

    Raises:
        InstanceRejected: It is not kept.
    """
    try:
        return arrival.finish()
    except TryLater as short:
        raise _no_room(short) from short
    finally:
        arrival.abandon()


def _no_room(short: TryLater) -> InstanceRejected:
    return InstanceRejected(str(short), dimse_status=Status.OUT_OF_RESOURCES)


def _require_dicom(part: PartStarted) -> None:
    """A part is application/dicom, said or unsaid, in plain bytes (PS3.18 8.6.1.2)."""
    declared = part.headers.get("content-type", DICOM_TYPE)
    try:
        name = parse_media_type(declared).name
    except MediaTypeMalformed:
        name = ""
    encoding = part.headers.get("content-transfer-encoding", "").lower()
    if name == DICOM_TYPE and encoding in _BINARY_ENCODINGS:
        return
    reason = "has a transfer encoding" if name == DICOM_TYPE else "is not application/dicom"
    raise InstanceRejected(
        f"the part {reason}", dimse_status=Status.CANNOT_UNDERSTAND, quarantine=False
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class PartReceiver:
    """Receives the body of one request after the other; shared by all worker threads."""

    ingest: Ingest
    associations: AssociationLog
    limits: WebLimits = WebLimits()

    def receive(
        self, body: BodyPipe, boundary: bytes | None, origin: Origin, study_instance_uid: str | None
    ) -> Reply:
        """Read one body to its end; what the reply calls stored is durable.

        The association stays open: ``close`` it once the client has its answer.

        Args:
            boundary: Of a multipart body; None: the body is one DICOM file.
        """
        try:
            association_id = self.associations.opened(origin)
        except TryLater as short:
            return Reply(refused_with=HTTPStatus.SERVICE_UNAVAILABLE, reason=str(short))
        origin = replace(origin, association_id=association_id)
        taker = PartTaker(self.ingest, origin, study_instance_uid, self.limits)
        reply = taker.reply
        try:
            for event in _events(self._pieces(body, association_id), boundary):
                taker.take(event)
            taker.end()
            if reply.is_empty:
                raise MultipartMalformed("the body has no parts")
            reply.ending = Ending.RELEASED
        except MultipartMalformed as malformed:
            reply.refused_with, reply.reason = HTTPStatus.BAD_REQUEST, str(malformed)
        except RequestRefused as refused:
            reply.refused_with, reply.reason = refused.status, refused.reason
        finally:
            taker.end()
        return reply

    def close(self, reply: Reply) -> None:
        """End the association of a request.

        It waits until the rows of all instances are written, tens of milliseconds that a client
        need not wait for: files are what it was promised.
        """
        if reply.association_id:
            with suppress(TryLater):  # an unclosed row turns stale, which counts as aborted
                self.associations.closed(
                    reply.association_id,
                    reply.ending,
                    brought=reply.carried.series,
                    losses=reply.carried.losses,
                )

    def _pieces(self, body: BodyPipe, association_id: str) -> Iterator[bytes]:
        """The bytes of a body; the row of its request stays alive meanwhile.

        Raises:
            RequestRefused: It is too long, or did not arrive in full.
        """
        size_bytes = 0
        beat_at = monotonic()
        for piece in body.pieces():
            if monotonic() - beat_at >= HEARTBEAT_S:
                beat_at = monotonic()
                with suppress(TryLater):  # the next one may come through
                    self.associations.heartbeat(association_id)
            size_bytes += len(piece)
            if size_bytes > self.limits.max_stow_bytes:
                raise RequestRefused(
                    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                    f"more than {self.limits.max_stow_bytes} bytes",
                )
            if piece:
                yield piece
        if not body.is_whole:
            raise RequestRefused(HTTPStatus.REQUEST_TIMEOUT, "the body did not arrive in full")


def _events(pieces: Iterator[bytes], boundary: bytes | None) -> Iterator[Event]:
    """What a body brings; without a boundary it is one part.

    That is not in PS3.18 Table 10.5.4-1, but clients send it.
    """
    if boundary is None:
        first = next(pieces, None)
        if first is None:
            raise MultipartMalformed("the body is empty")
        yield PartStarted({})
        for piece in chain((first,), pieces):
            yield memoryview(piece)
        yield PartEnded()
        return
    reader = MultipartReader(boundary)
    for piece in pieces:
        yield from reader.feed(piece)
    reader.finish()
