"""An SCP on a free port over an ingest and an index that live in memory."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from itertools import count
from typing import cast

from node.domain.errors import InstanceRejected, TryLater
from node.domain.instance import InstanceState, Origin
from node.domain.limits import DimseLimits
from node.receive.dimse import DimseServer, DimseSettings
from node.receive.ingest import Announced, Ingest, Receipt
from node.receive.scp.door import SharedPorts
from tests.support import raw_dimse as raw
from tests.support.raw_dimse import RawAssociation
from tests.support.waiting import eventually

JPEG_2000_LOSSLESS = "1.2.840.10008.1.2.4.90"
JPEG_BASELINE = "1.2.840.10008.1.2.4.50"
SYNTAXES = (
    raw.EXPLICIT_VR_LITTLE_ENDIAN,
    raw.IMPLICIT_VR_LITTLE_ENDIAN,
    JPEG_2000_LOSSLESS,
    JPEG_BASELINE,
)
CONTEXTS = {raw.CT_IMAGE_STORAGE: SYNTAXES, raw.MR_IMAGE_STORAGE: SYNTAXES}


@dataclass
class MemoryIngest:
    """Keeps whole instances in order; a rejection, if set, is raised by ``finish``."""

    kept: list[tuple[Origin, Announced, bytes]] = field(default_factory=list)
    abandoned: int = 0
    open_arrivals: int = 0
    rejection: InstanceRejected | None = None
    refusal: InstanceRejected | None = None
    losses: list[InstanceRejected] = field(default_factory=list)
    before_finish: Callable[[], None] = lambda: None

    def begin(self, origin: Origin, announced: Announced) -> MemoryArrival:
        if self.refusal is not None:
            raise self.refusal
        self.open_arrivals += 1
        return MemoryArrival(self, origin, announced)

    def record_loss(self, rejection: InstanceRejected, origin: Origin) -> None:
        self.losses.append(rejection)


@dataclass
class MemoryArrival:
    ingest: MemoryIngest
    origin: Origin
    announced: Announced
    data: bytearray = field(default_factory=bytearray)

    def write(self, data: bytes | memoryview) -> None:
        self.data += data

    def finish(self) -> Receipt:
        self.ingest.before_finish()
        self.ingest.open_arrivals -= 1
        if self.ingest.rejection is not None:
            raise self.ingest.rejection
        self.ingest.kept.append((self.origin, self.announced, bytes(self.data)))
        return Receipt(
            state=InstanceState.STORED,
            sop_class_uid=self.announced.sop_class_uid,
            sop_instance_uid=self.announced.sop_instance_uid,
            study_instance_uid="1.2",
            series_instance_uid="1.3",
        )

    def abandon(self) -> None:
        self.ingest.open_arrivals -= 1
        self.ingest.abandoned += 1


@dataclass
class MemoryLog:
    """Association rows as a list of what happened, with the number of instances kept by then."""

    ingest: MemoryIngest
    events: list[tuple[str, str, int]] = field(default_factory=list)
    origins: dict[str, Origin] = field(default_factory=dict)
    beats: list[str] = field(default_factory=list)
    losses: dict[str, int] = field(default_factory=dict)
    is_down: bool = False
    ids: count[int] = field(default_factory=lambda: count(1))

    def opened(self, origin: Origin) -> str:
        if self.is_down:
            raise TryLater("the index is locked")
        association_id = f"a{next(self.ids)}"
        self.origins[association_id] = origin
        self.events.append((association_id, "opened", len(self.ingest.kept)))
        return association_id

    def heartbeat(self, association_id: str) -> None:
        self.beats.append(association_id)

    def closed(
        self,
        association_id: str,
        end: str,
        *,
        brought: Mapping[str, Collection[str]] | None = None,
        losses: int = 0,
    ) -> None:
        self.losses[association_id] = losses
        self.events.append((association_id, end, len(self.ingest.kept)))


@dataclass
class Node:
    server: DimseServer
    ingest: MemoryIngest
    log: MemoryLog

    def connect(self) -> RawAssociation:
        return RawAssociation(self.server.port)

    def open(self, **request: object) -> RawAssociation:
        client = self.connect()
        answer = client.request(**request)  # type: ignore[arg-type]
        assert answer.kind == raw.ASSOCIATE_AC, answer
        return client

    def is_alive(self) -> bool:
        with self.open(offers=((raw.VERIFICATION, (raw.IMPLICIT_VR_LITTLE_ENDIAN,)),)) as client:
            return client.echo(1) == 0 and client.release().kind == raw.RELEASE_RP


Serve = Callable[..., Node]


def _count_threads() -> int:
    """But for timers: the log may wait a minute to tell how much it left out."""
    return sum(not isinstance(each, threading.Timer) for each in threading.enumerate())


@contextmanager
def serving() -> Iterator[Serve]:
    """Starts servers on free ports; at the end each is stopped and its threads are gone."""
    running: list[DimseServer] = []
    threads_before = _count_threads()

    def start(
        *, is_started: bool = True, ports: SharedPorts | None = None, **settings: object
    ) -> Node:
        ingest = MemoryIngest()
        log = MemoryLog(ingest)
        bounds = {each.name for each in fields(DimseLimits)} & settings.keys()
        limits = DimseLimits(**{name: settings.pop(name) for name in bounds})  # type: ignore[arg-type]
        server = DimseServer(
            DimseSettings(port=0, limits=limits, **settings),  # type: ignore[arg-type]
            cast(Ingest, ingest),
            log,
            CONTEXTS,
            ports,
        )
        if is_started:
            server.start()
        running.append(server)
        return Node(server, ingest, log)

    try:
        yield start
    finally:
        for server in running:
            server.stop()
    assert eventually(lambda: _count_threads() <= threads_before)
