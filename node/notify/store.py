"""The rows of notices: what is open, what is to be told whom, and who looks."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from uuid import uuid4

from sqlalchemy import Connection, Engine, Row, and_, delete, func, insert, select, text, update

from node.database.engine import inserting, reading, rows_of, writing
from node.domain.health import Finding, HealthCode
from node.domain.notice import Course
from node.notify.notifier import Notifier
from node.notify.tables import IS_OPEN, notice, notice_delivery, watcher

WAITING, TOLD, LEFT, GIVEN_UP = "waiting", "told", "left", "given up"
FIRST_S, CAP_S = 5.0, 900.0
"""Before an attempt that follows a failure: doubling from the first to the last of these."""
GIVE_UP_AFTER_S = 7 * 86_400.0
_KEEP_S = 90 * 86_400.0
_MOST_DUE = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """One thing to tell one notifier.

    Args:
        uid: The same at every attempt.
        at: Since when it is so, or since when it is over.
    """

    id: int
    uid: str
    notifier: str
    course: Course
    finding: Finding
    at: float
    attempts: int


class Notices:
    """Open and past notices, and what is to be told of them."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def lead(self, owner: str, lease_s: float, now: float) -> bool:
        """Be, or stay, the one process that looks after the node: each of them may ask."""
        with reading(self._engine) as connection:
            row = connection.execute(select(watcher)).one_or_none()
        if row is not None and row.until >= now:
            if row.owner != owner:
                return False
            if row.until - now > lease_s / 2:
                return True
        mine = {"owner": owner, "until": now + lease_s}
        with writing(self._engine) as connection:
            if row is None:
                first = inserting(connection, watcher).values(id=1, **mine)
                taken = connection.execute(first.on_conflict_do_nothing())
            else:
                is_same = (watcher.c.owner == row.owner, watcher.c.until == row.until)
                taken = connection.execute(update(watcher).where(*is_same).values(**mine))
            return bool(taken.rowcount)

    def open_keys(self) -> Mapping[tuple[HealthCode, str], Row[tuple[object, ...]]]:
        """What was the matter at the last look."""
        found = rows_of(self._engine, select(notice).where(text(IS_OPEN)))
        return {
            (HealthCode(row.code), row.subject): row
            for row in found
            if row.code in list(HealthCode)
        }

    def reconcile(
        self, findings: Collection[Finding], notifiers: Iterable[Notifier], now: float
    ) -> int:
        """Write down what began, what grew and what is over, each with whom to tell; how much that is."""
        before = self.open_keys()
        wanted = list(notifiers)
        began = [finding for finding in findings if finding.key not in before]
        grew = [
            finding
            for finding in findings
            if finding.key in before
            and _count(finding.facts) > _count(dict(before[finding.key].facts))
        ]
        over = before.keys() - {finding.key for finding in findings}
        if not began and not grew and not over:
            return 0
        with writing(self._engine) as connection:
            for finding in began:
                self._begin(connection, finding, wanted, now)
            for finding in grew:
                self._grow(connection, before[finding.key], finding, wanted, now)
            for key in over:
                self._end(connection, before[key], now)
        return len(began) + len(grew) + len(over)

    def _begin(
        self, connection: Connection, finding: Finding, wanted: Sequence[Notifier], now: float
    ) -> None:
        row = {
            "uid": uuid4().hex,
            "code": finding.code.value,
            "subject": finding.subject,
            "facts": dict(finding.facts),
            "began_at": now,
        }
        opened = inserting(connection, notice).values(**row).on_conflict_do_nothing()
        made = connection.execute(opened)
        if not made.rowcount:
            return
        number = int((made.inserted_primary_key or (0,))[0])
        for notifier in wanted:
            if notifier.wants(finding.code):
                due = self._due_at(connection, notifier, finding.code, finding.subject, now)
                _tell(connection, number, notifier.name, Course.BEGAN, now, due)

    def _grow(
        self,
        connection: Connection,
        row: Row[tuple[object, ...]],
        finding: Finding,
        wanted: Sequence[Notifier],
        now: float,
    ) -> None:
        its = update(notice).where(notice.c.id == row.id)
        connection.execute(its.values(facts=dict(finding.facts)))
        for notifier in wanted:
            if not notifier.wants(finding.code) or _is_waiting(connection, row.id, notifier.name):
                continue  # what waits is told as it is by then
            due = self._due_at(connection, notifier, finding.code, finding.subject, now)
            _tell(connection, row.id, notifier.name, Course.GREW, now, due)

    def _end(self, connection: Connection, row: Row[tuple[object, ...]], now: float) -> None:
        its = update(notice).where(notice.c.id == row.id, text(IS_OPEN))
        if not connection.execute(its.values(over_at=now)).rowcount:
            return
        of_it = notice_delivery.c.notice_id == row.id
        untried = and_(of_it, notice_delivery.c.state == WAITING, notice_delivery.c.attempts == 0)
        soon = notice_delivery.c.next_at <= now
        # what waited because the same had been told a moment ago need not be told at all
        connection.execute(update(notice_delivery).where(untried, ~soon).values(state=LEFT))
        told = select(notice_delivery.c.notifier).where(
            of_it, notice_delivery.c.state != LEFT, notice_delivery.c.state != GIVEN_UP
        )
        for name in connection.execute(told.distinct()).scalars().all():
            _tell(connection, row.id, name, Course.OVER, now, now)

    def _due_at(
        self, connection: Connection, notifier: Notifier, code: str, subject: str, now: float
    ) -> float:
        """When it may be told: not too soon after the same was."""
        joined = notice_delivery.join(notice, notice.c.id == notice_delivery.c.notice_id)
        last = (
            select(func.max(notice_delivery.c.told_at))
            .select_from(joined)
            .where(notice.c.code == code, notice.c.subject == subject)
            .where(notice_delivery.c.notifier == notifier.name)
        )
        told_at = connection.execute(last).scalar_one()
        return now if told_at is None else max(now, told_at + notifier.again_after_s)

    def begin(
        self, finding: Finding, notifiers: Sequence[Notifier], now: float, *, is_told: bool
    ) -> None:
        """Write down what began while nothing could be written.

        Args:
            is_told: Whether everybody heard of it all the same; else everybody is told.
        """
        with writing(self._engine) as connection:
            self._begin(connection, finding, notifiers, now)
            if is_told:
                its = (notice.c.code == finding.code.value, notice.c.subject == finding.subject)
                of_it = notice_delivery.c.notice_id.in_(
                    select(notice.c.id).where(*its, text(IS_OPEN))
                )
                told = update(notice_delivery).where(of_it, notice_delivery.c.state == WAITING)
                connection.execute(told.values(state=TOLD, told_at=now))

    def due(self, now: float) -> Mapping[str, Sequence[Due]]:
        """What is to be told now, by notifier, in the order in which it became so."""
        query = (
            select(notice_delivery, notice.c.uid, notice.c.code, notice.c.subject, notice.c.facts)
            .join(notice, notice.c.id == notice_delivery.c.notice_id)
            .where(notice_delivery.c.state == WAITING, notice_delivery.c.next_at <= now)
            .order_by(notice_delivery.c.id)
            .limit(_MOST_DUE)
        )
        found: dict[str, list[Due]] = {}
        for row in rows_of(self._engine, query):
            due = Due(
                id=row.id,
                uid=f"{row.uid}.{row.id}",
                notifier=row.notifier,
                course=Course(row.course),
                finding=Finding(HealthCode(row.code), row.subject, row.facts),
                at=row.at,
                attempts=row.attempts,
            )
            found.setdefault(row.notifier, []).append(due)
        return found

    def told(self, some: Sequence[Due], now: float) -> None:
        """They are: never again."""
        ended = {"state": TOLD, "told_at": now, "sentence": ""}
        self._change(some, ended)

    def not_told(
        self, some: Sequence[Due], sentence: str, now: float, asked_s: float | None = None
    ) -> None:
        """They will be, later; everything else that waits for the same notifier waits as well."""
        attempts = max(one.attempts for one in some) + 1
        wait_s = max(min(CAP_S, FIRST_S * 2.0 ** min(attempts - 1, 20)), asked_s or 0.0)
        self._change(some, {"attempts": attempts, "sentence": sentence})
        waits = (notice_delivery.c.state == WAITING, notice_delivery.c.notifier == some[0].notifier)
        with writing(self._engine) as connection:
            later = update(notice_delivery).where(*waits, notice_delivery.c.next_at < now + wait_s)
            connection.execute(later.values(next_at=now + wait_s))
            old = update(notice_delivery).where(
                *waits, notice_delivery.c.at < now - GIVE_UP_AFTER_S
            )
            connection.execute(old.values(state=GIVEN_UP))

    def leave(self, notifier: str) -> None:
        """There is no such notifier any more."""
        its = (notice_delivery.c.notifier == notifier, notice_delivery.c.state == WAITING)
        with writing(self._engine) as connection:
            connection.execute(update(notice_delivery).where(*its).values(state=LEFT))

    def forget(self, now: float) -> None:
        """Delete what has long been over."""
        old = select(notice.c.id).where(notice.c.over_at < now - _KEEP_S)
        with writing(self._engine) as connection:
            connection.execute(delete(notice_delivery).where(notice_delivery.c.notice_id.in_(old)))
            connection.execute(delete(notice).where(notice.c.over_at < now - _KEEP_S))

    def _change(self, some: Sequence[Due], values: Mapping[str, object]) -> None:
        ids = [one.id for one in some]
        with writing(self._engine) as connection:
            its = update(notice_delivery).where(notice_delivery.c.id.in_(ids))
            connection.execute(its.values(**values))


def _tell(
    connection: Connection, notice_id: int, notifier: str, course: Course, now: float, due: float
) -> None:
    row = {
        "notice_id": notice_id,
        "notifier": notifier,
        "course": course.value,
        "state": WAITING,
        "at": now,
        "next_at": due,
    }
    connection.execute(insert(notice_delivery).values(**row))


def _is_waiting(connection: Connection, notice_id: int, notifier: str) -> bool:
    its = (
        notice_delivery.c.notice_id == notice_id,
        notice_delivery.c.notifier == notifier,
        notice_delivery.c.state == WAITING,
    )
    return connection.execute(select(notice_delivery.c.id).where(*its).limit(1)).first() is not None


def _count(facts: Mapping[str, object]) -> float:
    found = facts.get("count", 0)
    return float(found) if isinstance(found, int | float) else 0.0
