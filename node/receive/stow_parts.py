"""The working half of a STOW-RS request: from the bytes of its body to instances and an outcome.

Plain blocking code for one worker thread per request: writing, hashing and syncing files must not
hold up the event loop that serves everybody else.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from time import monotonic
from typing import Protocol

from node.domain.errors import InstanceRejected, NodeError, TryLater
from node.domain.instance import Ending, Origin
from node.domain.statuses import CANNOT_UNDERSTAND, OUT_OF_RESOURCES
from node.receive.arrival import Arrival
from node.receive.associations import HEARTBEAT_S, AssociationLog
from node.receive.carried import Carried
from node.receive.media import MediaTypeMalformed, parse_media_type
from node.receive.multipart import (
    Event,
    MultipartMalformed,
    MultipartReader,
    PartEnded,
    PartStarted,
)
from node.receive.stow_answer import Outcome, Stored

DICOM_TYPE = "application/dicom"

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


class FileIngest(Protocol):
    """Takes DICOM files; raises InstanceRejected for what is not kept."""

    def begin_file(
        self, origin: Origin, *, study_instance_uid: str | None = None, source: str = ""
    ) -> Arrival: ...

    def record_loss(
        self, rejection: InstanceRejected, origin: Origin, *, source: str = ""
    ) -> None: ...


class Body(Protocol):
    """The body of a request as it arrives."""

    def pieces(self) -> Iterator[bytes]:
        """Pieces in order; an empty one now and then while the client is silent."""
        ...

    @property
    def is_whole(self) -> bool:
        """Whether the client sent all of it; known once ``pieces`` is exhausted."""
        ...


class PartReader(Protocol):
    """Finds the parts in a body."""

    def feed(self, data: bytes) -> Iterator[Event]: ...
    def finish(self) -> None: ...


class SinglePartReader:
    """A body that is one DICOM file: not in PS3.18 Table 10.5.4-1, but clients send it."""

    def __init__(self) -> None:
        self._started = False

    def feed(self, data: bytes) -> Iterator[Event]:
        """The body as the content of one part."""
        if data and not self._started:
            self._started = True
            yield PartStarted({})
        if data:
            yield memoryview(data)

    def finish(self) -> None:
        """A body without bytes is no part.

        Raises:
            MultipartMalformed: Nothing was sent.
        """
        if not self._started:
            raise MultipartMalformed("the body is empty")


@dataclass(frozen=True, slots=True, kw_only=True)
class BodyLimits:
    """What one request may hold; beyond either it is answered 413."""

    max_request_bytes: int = 64 * 1024**3
    max_parts: int = 50_000


class PartTaker:
    """Hands the parts of one request to the ingest, one after the other."""

    def __init__(
        self, ingest: FileIngest, origin: Origin, study_instance_uid: str | None, max_parts: int
    ) -> None:
        self.outcome = Outcome()
        self.carried = Carried()
        self._ingest = ingest
        self._origin = origin
        self._study_instance_uid = study_instance_uid
        self._max_parts = max_parts
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
                self.end_part()
            elif self._arrival is not None:
                self._arrival.write(event)
        except InstanceRejected as rejected:
            self._fail(rejected)
        except TryLater as short:
            self._fail(InstanceRejected(str(short), dimse_status=OUT_OF_RESOURCES))

    def end_part(self) -> None:
        """The part is complete: make it durable."""
        if self._arrival is None:
            return
        receipt = self._arrival.finish()
        self._arrival = None
        self.carried.note(receipt)
        self.outcome.stored.append(
            Stored(sop_class_uid=receipt.sop_class_uid, sop_instance_uid=receipt.sop_instance_uid)
        )

    def abandon(self) -> None:
        """Throw away the part that is not complete, if there is one."""
        if self._arrival is not None:
            self.carried.losses += 1
            self._arrival.abandon()
            self._arrival = None

    def _start(self, part: PartStarted) -> None:
        self._parts += 1
        if self._parts > self._max_parts:
            raise RequestRefused(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"more than {self._max_parts} parts"
            )
        source = f"part {self._parts} of request {self._origin.association_id}"
        try:
            _require_dicom(part)
        except InstanceRejected as rejected:
            self._ingest.record_loss(rejected, self._origin, source=source)
            raise
        self._arrival = self._ingest.begin_file(
            self._origin, study_instance_uid=self._study_instance_uid, source=source
        )

    def _fail(self, rejected: InstanceRejected) -> None:
        self.outcome.failed.append(rejected)
        arrival, self._arrival = self._arrival, None
        self.carried.losses += 1
        if arrival is not None:
            arrival.abandon()


def _require_dicom(part: PartStarted) -> None:
    """A part is application/dicom, said or unsaid, in plain bytes (PS3.18 8.6.1.2)."""
    declared = part.headers.get("content-type", DICOM_TYPE)
    try:
        name = parse_media_type(declared).name
    except MediaTypeMalformed:
        name = ""
    encoding = part.headers.get("content-transfer-encoding", "").lower()
    if name != DICOM_TYPE:
        raise InstanceRejected(
            "the part is not application/dicom", dimse_status=CANNOT_UNDERSTAND, quarantine=False
        )
    if encoding not in _BINARY_ENCODINGS:
        raise InstanceRejected(
            "the part has a transfer encoding", dimse_status=CANNOT_UNDERSTAND, quarantine=False
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """The status of a request, what became of its parts, and one sentence where it is refused.

    Args:
        association_id: The row that is still open; empty where there is none.
        ending: How that row ends: released where the request was well formed to its end.
        carried: What the row then counts.
    """

    status: HTTPStatus
    outcome: Outcome
    reason: str = ""
    association_id: str = ""
    ending: Ending = Ending.ABORTED
    carried: Carried = field(default_factory=Carried)


@dataclass(frozen=True, slots=True, kw_only=True)
class PartReceiver:
    """Receives the body of one request after the other; shared by all worker threads."""

    ingest: FileIngest
    associations: AssociationLog
    limits: BodyLimits = BodyLimits()

    def receive(
        self, body: Body, reader: PartReader, origin: Origin, study_instance_uid: str | None
    ) -> Reply:
        """Read one body to its end; what the reply calls stored is durable.

        The association stays open: ``close`` it once the client has its answer.
        """
        try:
            association_id = self.associations.opened(origin)
        except TryLater as short:
            status = HTTPStatus.SERVICE_UNAVAILABLE
            return Reply(status=status, outcome=Outcome(), reason=str(short))
        origin = replace(origin, association_id=association_id)
        taker = PartTaker(self.ingest, origin, study_instance_uid, self.limits.max_parts)
        ending = Ending.ABORTED
        try:
            self._read(body, reader, taker, association_id)
            status, reason, ending = taker.outcome.status, "", Ending.RELEASED
        except MultipartMalformed as malformed:
            status, reason = HTTPStatus.BAD_REQUEST, str(malformed)
        except RequestRefused as refused:
            status, reason = refused.status, refused.reason
        finally:
            taker.abandon()
        return Reply(
            status=status,
            outcome=taker.outcome,
            reason=reason,
            association_id=association_id,
            ending=ending,
            carried=taker.carried,
        )

    def close(self, reply: Reply) -> None:
        """End the association of a request.

        It waits until the rows of all instances are written, tens of milliseconds that a client
        need not wait for: files are what it was promised.
        """
        if reply.association_id:
            with suppress(TryLater):  # an unclosed row turns stale, which counts as aborted
                carried = reply.carried
                self.associations.closed(
                    reply.association_id,
                    reply.ending,
                    brought=carried.series,
                    losses=carried.losses,
                )

    def _read(self, body: Body, reader: PartReader, taker: PartTaker, association_id: str) -> None:
        size_bytes = 0
        beat_at = monotonic()
        for piece in body.pieces():
            if monotonic() - beat_at >= HEARTBEAT_S:
                beat_at = monotonic()
                with suppress(TryLater):  # the next one may come through
                    self.associations.heartbeat(association_id)
            if not piece:
                continue
            size_bytes += len(piece)
            if size_bytes > self.limits.max_request_bytes:
                raise RequestRefused(
                    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                    f"more than {self.limits.max_request_bytes} bytes",
                )
            for event in reader.feed(piece):
                taker.take(event)
        if not body.is_whole:
            raise RequestRefused(HTTPStatus.REQUEST_TIMEOUT, "the body did not arrive in full")
        reader.finish()
        if isinstance(reader, SinglePartReader):
            taker.take(PartEnded())
        if taker.outcome.is_empty:
            raise MultipartMalformed("the body has no parts")


def reader_for(boundary: bytes | None) -> PartReader:
    """The reader of a multipart body, or of a body that is one file."""
    return SinglePartReader() if boundary is None else MultipartReader(boundary)
