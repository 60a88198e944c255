"""How the node is: measured at its processes, its database, its disk, and at the rows that wait.

Nothing is remembered here but what is slow to ask. Whoever asks finds what is true now, from whatever process:
``/readyz``, ``segnode status``, the metrics, and the watch that tells people.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Generic, TypeVar

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from node.config import NodeConfig
from node.database.engine import clock_of, epoch_s, reading, why_unwritable
from node.domain.health import RECEIVE, Finding, Health, HealthCode
from node.domain.instance import SeriesState
from node.domain.job import DeliveryState, MatchState
from node.domain.tls import ClientTls, ServerTls
from node.jobs.catalog import JobCatalog
from node.jobs.matches import MatchStore
from node.jobs.outbox import Outbox
from node.pipeline.build import destinations_of
from node.pipeline.data_folder import roles_folder
from node.process.ledger import NodeState, RoleState, state_in
from node.spool.catalog import SpoolCatalog
from node.spool.files import SpaceGuard, SpoolFolders
from node.spool.quarantine import bytes_in
from node.tls.expiry import expiry_of

CERTIFICATE_SOON = timedelta(days=30)
QUARANTINE_NEARLY_FULL = 0.8
QUARANTINE_GROWS_BY = 100  # in an hour
_HOUR_S = 3600.0
_GIGABYTE = 1e9
_SLOW_S = 10.0

_Value = TypeVar("_Value")


class NodeHealth:
    """The state of the whole node.

    Args:
        config: What it goes by; without it only its rows and its disk are looked at.
    """

    def __init__(self, engine: Engine, space: SpaceGuard, config: NodeConfig | None = None) -> None:
        self._engine = engine
        self._space = space
        self._config = config
        self._quarantined_bytes = _Slow(self._count_quarantine)
        self._certificates = _Slow(self._read_certificates)

    def health(self) -> Health:
        """What is the matter now."""
        state = state_in(roles_folder(self._config.data_dir)) if self._config else NodeState()
        crew = [role.name for role in state.roles if role.name.startswith(f"{RECEIVE} ")]
        found = [*_of_processes(state), *self._of_disk(), *self._of_rows(), *self._of_files()]
        return Health(tuple(found), receivers=tuple(crew) or (RECEIVE,))

    def _of_disk(self) -> Iterator[Finding]:
        if shortage := self._space.shortage:
            yield Finding(HealthCode.DISK, facts={"told": shortage})

    def _of_rows(self) -> list[Finding]:
        unwritable = why_unwritable(self._engine)
        found = []
        try:
            with reading(self._engine) as connection:
                now = epoch_s(connection)
            found = [*self._that_wait(), *self._destinations(), *self._in_time(now)]
        except DBAPIError as error:
            why = type(error.orig).__name__
            unwritable = unwritable or f"the database cannot be read ({why})"
        if unwritable:
            found.append(Finding(HealthCode.DATABASE, facts={"told": unwritable}))
        return found

    def _that_wait(self) -> Iterator[Finding]:
        held = SpoolCatalog(self._engine).count_series(SeriesState.HELD)
        stuck = (MatchState.HELD, MatchState.PARKED, MatchState.FAILED, MatchState.IMPLAUSIBLE)
        matches = MatchStore(self._engine).counts(*stuck)
        blocked = Outbox(self._engine).counts(DeliveryState.BLOCKED)
        counts = {
            HealthCode.HELD: held.get(SeriesState.HELD, 0) + matches.get(MatchState.HELD, 0),
            HealthCode.PARKED: matches.get(MatchState.PARKED, 0)
            + matches.get(MatchState.FAILED, 0),
            HealthCode.IMPLAUSIBLE: matches.get(MatchState.IMPLAUSIBLE, 0),
            HealthCode.BLOCKED: blocked.get(DeliveryState.BLOCKED, 0),
        }
        for code, count in counts.items():
            if count:
                yield Finding(code, facts={"count": count})

    def _destinations(self) -> Iterator[Finding]:
        known = destinations_of(self._config) if self._config else None
        for name, failures in Outbox(self._engine).sick_destinations().items():
            if known is None or name in known:  # one that was taken out is nobody's trouble
                yield Finding(HealthCode.DESTINATION_SICK, name, {"failures": failures})

    def _in_time(self, now: float) -> Iterator[Finding]:
        jobs = JobCatalog(self._engine)
        if again := jobs.count_tried_again():
            yield Finding(HealthCode.JOBS_TRIED_AGAIN, facts={"count": again})
        if self._config and (waited_s := jobs.longest_wait_s(now)) > self._config.work.late_after_s:
            yield Finding(HealthCode.QUEUE_LATE, facts={"minutes": round(waited_s / 60)})
        if ahead_s := round(clock_of(self._engine).ahead_s):
            yield Finding(HealthCode.CLOCK, facts={"ahead_s": ahead_s})
        refused = SpoolCatalog(self._engine).count_quarantined_since(now - _HOUR_S)
        if refused >= QUARANTINE_GROWS_BY:
            yield Finding(HealthCode.QUARANTINE_GROWS, facts={"count": refused})

    def _of_files(self) -> Iterator[Finding]:
        if self._config is None:
            return
        most_gb = self._config.storage.quarantine_max_gb
        used_gb = self._quarantined_bytes() / _GIGABYTE
        if used_gb >= QUARANTINE_NEARLY_FULL * most_gb:
            facts: dict[str, Any] = {"used_gb": round(used_gb, 2), "most_gb": most_gb}
            yield Finding(HealthCode.QUARANTINE_FULL, facts=facts)
        for at, name, ends in self._certificates():
            left = ends - datetime.now(UTC)
            if left < CERTIFICATE_SOON:
                facts = {"name": name, "ends": f"{ends:%Y-%m-%d}", "days": left.days}
                yield Finding(HealthCode.CERTIFICATE, at, facts)

    def _read_certificates(self) -> tuple[tuple[str, str, datetime], ...]:
        return tuple(certificates_of(self._config)) if self._config else ()

    def _count_quarantine(self) -> int:
        if self._config is None:
            return 0
        try:
            return bytes_in(SpoolFolders.of(self._config.data_dir).quarantine)
        except OSError:  # told as the disk's
            return 0


class _Slow(Generic[_Value]):
    """An answer that costs something: good for some seconds."""

    def __init__(self, ask: Callable[[], _Value]) -> None:
        self._ask = ask
        self._asked_at = float("-inf")

    def __call__(self) -> _Value:
        if time.monotonic() - self._asked_at >= _SLOW_S:
            self._answer: _Value = self._ask()
            self._asked_at = time.monotonic()
        return self._answer


def _of_processes(state: NodeState) -> Iterator[Finding]:
    for role in state.roles:
        if role.silent_s:
            facts = {"loop": role.loop, "seconds": round(role.silent_s)}
            yield Finding(HealthCode.ROLE_SILENT, role.name, facts)
        elif role.failures:
            code = HealthCode.ROLE_RESTARTED if role.child else HealthCode.ROLE_GONE
            yield Finding(code, role.name, {"times": role.failures, "how": _ended(role)})
    if state.refused:
        yield Finding(HealthCode.RELOAD_REFUSED, facts={"told": state.refused})


def _ended(role: RoleState) -> str:
    """How a process ended: the name of a signal, or ``exit N``."""
    number = role.status & 0x7F
    return signal.Signals(number).name if number else f"exit {role.status >> 8}"


def certificates_of(config: NodeConfig) -> Iterator[tuple[str, str, datetime]]:
    """Where certificates of this node are named, for whom they are made out, and when they end."""
    for at, tls in tls_of(config):
        if tls.certificate:
            try:
                expiry = expiry_of(Path(tls.certificate))
            except (OSError, ValueError):  # doctor tells what is wrong with the file
                continue
            yield at, expiry.subject, expiry.at


def tls_of(config: NodeConfig) -> Iterator[tuple[str, ServerTls | ClientTls]]:
    """Where the configuration speaks of TLS."""
    ports = {"dimse": config.dimse.tls, "web": config.web.tls}
    peers = {f"peers.{name}": peer.tls for name, peer in config.peers.items()}
    others = {
        f"destinations.{name}": getattr(destination, "tls", None)
        for name, destination in config.destinations.items()
    }
    for at, tls in {**ports, **peers, **others}.items():
        if tls is not None:
            yield f"{at}.tls", tls
