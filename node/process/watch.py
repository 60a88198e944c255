"""The watch: looks at the health of the node again and again, and tells people what changed.

Any process may run one; one of them leads, by a row, and another takes over when it goes silent. What changed
is a row before anybody is told, so a killed node tells it when it is back. Where the database itself is what
is the matter, the one that led last tells from memory.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any
from uuid import uuid4

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from node import words
from node.database.engine import Now, epoch_s, reading
from node.domain.health import Finding, HealthCode
from node.domain.notice import Course, Notice, Told
from node.notify.notifier import Notifier
from node.notify.store import Due, Notices
from node.observe import beats
from node.process.health import NodeHealth

log = logging.getLogger(__name__)

LOOK_S = 2.0
LEASE_S = 6.0
_ROUND_S = 30.0
_END_S = 5.0
_FORGET_S = 3600.0
_AT_ONCE = 4


class Watch:
    """Looks, writes down, tells.

    Args:
        owner: Name of this process, another one in each life.
        now: The clock; the time of the node by default.
    """

    def __init__(
        self,
        engine: Engine,
        health: NodeHealth,
        notifiers: Mapping[str, Notifier],
        *,
        owner: str = "",
        now: Now | None = None,
    ) -> None:
        self._engine = engine
        self._notices = Notices(engine)
        self._health = health
        self._notifiers = notifiers
        self._owner = owner or uuid4().hex
        self._now = now or self._time_of_node
        self._leads = False
        self._pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="notify")
        self._telling: dict[str, Future[None]] = {}
        self._without_rows: dict[
            tuple[HealthCode, str], tuple[Finding, Mapping[str, Future[Told]]]
        ] = {}
        self._known: frozenset[tuple[HealthCode, str]] = frozenset()
        self._forget_at = 0.0

    def use(self, health: NodeHealth, notifiers: Mapping[str, Notifier]) -> None:
        """Go on with another configuration."""
        self._health, self._notifiers = health, notifiers

    def start(self, stop: threading.Event) -> None:
        """Look on a thread of its own until told to stop."""
        self._thread = threading.Thread(target=self.run, args=(stop,), name="watch", daemon=True)
        self._thread.start()

    def join(self) -> None:
        """Wait for the thread, but for nobody who is being told."""
        self._thread.join(_END_S)

    def run(self, stop: threading.Event) -> None:
        """Look until told to stop; who is being told then hears it again from the next process."""
        while not stop.wait(LOOK_S):
            beats.beat("watch", _ROUND_S)
            try:
                if self._notifiers:
                    self.look()
            except Exception:
                log.exception("the watch stumbled")
        self._pool.shutdown(wait=False, cancel_futures=True)

    def look(self) -> None:
        """One round."""
        findings: Sequence[Finding] = ()
        try:
            if self._leads:  # who leads and cannot write does not wait until that is certain
                findings = self._health.health().findings
                if any(finding.code is HealthCode.DATABASE for finding in findings):
                    self._tell_from_memory(findings)
                    return
            now = self._now()
            if not self._notices.lead(self._owner, LEASE_S, now):
                self._leads = False
                return
            if not self._leads:
                self._leads, findings = True, self._health.health().findings
            self._write_down_what_was_told(now)
            self._notices.reconcile(findings, self._notifiers.values(), now)
            self._known = frozenset(finding.key for finding in findings)
            self._tell_due(now)
            if time.monotonic() >= self._forget_at:
                self._forget_at = time.monotonic() + _FORGET_S
                self._notices.forget(now)
        except DBAPIError:
            if self._leads:
                self._tell_from_memory(self._health.health().findings)

    def _write_down_what_was_told(self, now: float) -> None:
        """What was told without rows gets some; what somebody did not hear is told by them."""
        for finding, attempts in self._without_rows.values():
            futures = attempts.values()
            is_told = all(future.done() and future.result().is_told for future in futures)
            self._notices.begin(finding, list(self._notifiers.values()), now, is_told=is_told)
        self._without_rows.clear()

    def _time_of_node(self) -> float:
        with reading(self._engine) as connection:
            return epoch_s(connection)

    def wait(self) -> None:
        """Until everybody has been told who is being told now."""
        futures: list[Future[Any]] = list(self._telling.values())
        for _, attempts in self._without_rows.values():
            futures += attempts.values()
        for future in futures:
            future.result()

    def _tell_due(self, now: float) -> None:
        for name, due in self._notices.due(now).items():
            notifier = self._notifiers.get(name)
            if notifier is None:
                self._notices.leave(name)
            elif name not in self._telling or self._telling[name].done():
                self._telling[name] = self._pool.submit(self._tell, notifier, due, now)

    def _tell(self, notifier: Notifier, due: Sequence[Due], now: float) -> None:
        began = time.monotonic()
        try:
            for start in range(0, len(due), notifier.most_at_once):
                some = due[start : start + notifier.most_at_once]
                told = _send(notifier, [_notice_of(one) for one in some])
                at = now + time.monotonic() - began
                if not told.is_told:
                    self._notices.not_told(some, told.sentence, at, told.retry_after_s)
                    return  # in their order, or not at all
                self._notices.told(some, at)
        except DBAPIError:  # told, perhaps, and not written down: told again, under the same id
            log.warning("a notice could not be written down", extra={"notifier": notifier.name})
        except Exception:
            log.exception("a notifier failed", extra={"notifier": notifier.name})

    def _tell_from_memory(self, findings: Collection[Finding]) -> None:
        for finding in findings:
            if finding.key in self._known or finding.key in self._without_rows:
                continue
            notice = _notice(uuid4().hex, Course.BEGAN, finding, time.time())
            attempts = {
                name: self._pool.submit(_send, notifier, [notice])
                for name, notifier in self._notifiers.items()
                if notifier.wants(finding.code)
            }
            self._without_rows[finding.key] = (finding, attempts)


def _send(notifier: Notifier, notices: Sequence[Notice]) -> Told:
    told = notifier.send(notices)
    about = {"notifier": notifier.name, "codes": [notice.code for notice in notices]}
    if told.is_told:
        log.info("told", extra=about)
    else:
        log.warning("nobody could be told", extra={**about, "sentence": told.sentence})
    return told


def _notice_of(due: Due) -> Notice:
    return _notice(due.uid, due.course, due.finding, due.at)


def _notice(uid: str, course: Course, finding: Finding, at: float) -> Notice:
    return Notice(
        id=uid,
        code=finding.code.value,
        subject=finding.subject,
        facts=finding.facts,
        course=course,
        at=at,
        sentence=words.tell_finding(finding),
        do=words.tell_what_to_do(finding),
    )


def trial_notice(at: float) -> Notice:
    """What ``segnode doctor --notify`` sends: nothing is the matter."""
    return Notice(
        id=uuid4().hex,
        code="test",
        facts={},
        course=Course.BEGAN,
        at=at,
        sentence="this is a test of segnode doctor",
        do="nothing",
    )
