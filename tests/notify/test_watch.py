"""The watch: what changes is told once, in order, whoever dies or does not listen meanwhile."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, select
from sqlalchemy.exc import OperationalError

from node.database.engine import open_engine, reading
from node.database.migrate import migrate
from node.domain.health import Finding, Health, HealthCode
from node.domain.settings import Secret
from node.notify.notifier import Notifier
from node.notify.store import CAP_S, Notices
from node.notify.tables import notice, notice_delivery
from node.notify.webhook import Webhook
from node.process.watch import LEASE_S, Watch
from tests.notify.receivers import Hook

DISK = Finding(HealthCode.DISK, facts={"told": "1 GB free"})
PACS = Finding(HealthCode.DESTINATION_SICK, "pacs", {"failures": 1})
BEGAN, OVER = ("disk", "", "began"), ("disk", "", "over")


def held(count: int) -> Finding:
    return Finding(HealthCode.HELD, facts={"count": count})


@dataclass
class Node:
    """A node whose health is what a test says, at a time that a test says."""

    engine: Engine
    notifiers: dict[str, Notifier]
    now: float = 1_700_000_000.0
    findings: Sequence[Finding] = ()
    watch: Watch = field(init=False)

    def __post_init__(self) -> None:
        self.watch = self.new_watch()

    def new_watch(self, owner: str = "first") -> Watch:
        health: Any = self
        return Watch(self.engine, health, self.notifiers, owner=owner, now=lambda: self.now)

    def health(self) -> Health:
        return Health(tuple(self.findings))

    def stands(self, *findings: Finding, after_s: float = 2.0) -> None:
        """So long after the last look it stands so."""
        self.now += after_s
        self.findings = findings
        self.watch.look()
        self.watch.wait()


@pytest.fixture(params=["sqlite", "postgresql"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    url = f"sqlite:///{tmp_path}/node.sqlite"
    if request.param == "postgresql":
        url = request.getfixturevalue("empty_postgresql")()
    engine = open_engine(url)
    migrate(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def hook() -> Iterator[Hook]:
    with Hook().listening() as listening:
        yield listening


def notifier(hook: Hook, **others: Any) -> dict[str, Notifier]:
    secret = Secret(source="env:HOOK", value="secret")
    return {"chat": Webhook(name="chat", url=hook.url, secret=secret, timeout_s=5.0, **others)}


@pytest.fixture
def node(engine: Engine, hook: Hook) -> Node:
    return Node(engine, notifier(hook))


def states(engine: Engine) -> list[str]:
    with reading(engine) as connection:
        query = select(notice_delivery.c.state).order_by(notice_delivery.c.id)
        return list(connection.execute(query).scalars())


def test_what_begins_and_what_is_over_is_told_once(node: Node, hook: Hook) -> None:
    node.stands(DISK)
    node.stands(DISK)
    node.stands(DISK, PACS)
    node.stands(PACS)
    node.stands()

    pacs = ("destination_sick", "pacs")
    assert hook.told == [BEGAN, (*pacs, "began"), OVER, (*pacs, "over")]
    assert len({head["webhook-id"] for head, _ in hook.requests}) == 4


def test_only_what_a_notifier_wants_is_told_there(engine: Engine, hook: Hook) -> None:
    node = Node(engine, notifier(hook, only=("held",)))

    node.stands(DISK, held(1))
    node.stands()

    assert hook.told == [("held", "", "began"), ("held", "", "over")]


def test_what_grows_is_told_again_but_not_at_once(node: Node, hook: Hook) -> None:
    node.stands(held(1))
    node.stands(held(2))
    node.stands(held(4))
    assert hook.told == [("held", "", "began")]

    node.stands(held(5), after_s=301.0)

    assert hook.told == [("held", "", "began"), ("held", "", "grew")]
    assert hook.messages[-1]["data"]["facts"] == {"count": 5}
    node.stands(held(3))
    assert len(hook.told) == 2


def test_what_comes_and_goes_is_not_told_each_time(node: Node, hook: Hook) -> None:
    for _ in range(10):
        node.stands(DISK)
        node.stands()
    assert hook.told == [BEGAN, OVER]

    node.stands(DISK)
    node.stands(DISK, after_s=310.0)

    assert hook.told == [BEGAN, OVER, BEGAN]
    assert states(node.engine).count("left") == 9


def test_an_outage_of_the_receiver_of_an_hour_loses_nothing_and_keeps_the_order(
    node: Node, hook: Hook
) -> None:
    hook.status = 503
    node.stands(DISK)
    node.stands(DISK, PACS)
    node.stands(PACS)
    for _ in range(120):
        node.stands(PACS, after_s=30.0)
    assert hook.told == []

    hook.status = 200
    node.stands(PACS, after_s=CAP_S)

    assert hook.told == [BEGAN, ("destination_sick", "pacs", "began"), OVER]
    assert states(node.engine) == ["told"] * 3


def test_what_a_killed_process_left_is_told_by_the_next(node: Node, hook: Hook) -> None:
    hook.status = 500
    node.stands(DISK)
    hook.status = 200

    node.watch = node.new_watch("second")
    node.stands(DISK)
    assert hook.told == []  # the first one may only be slow

    node.stands(DISK, after_s=LEASE_S + 5.0)
    assert hook.told == [BEGAN]


def test_a_process_that_died_between_telling_and_writing_tells_under_the_same_id(
    node: Node, hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as dying:
        dying.setattr(Notices, "told", lambda *_: None)
        node.stands(DISK)
    node.watch = node.new_watch("second")
    node.stands(DISK, after_s=LEASE_S + 1.0)

    assert len(hook.requests) == 2
    assert hook.told == [BEGAN]


def test_one_of_several_watches_leads(node: Node, hook: Hook) -> None:
    other = node.new_watch("second")
    for _ in range(5):
        node.stands(DISK)
        other.look()
        other.wait()

    assert len(hook.requests) == 1
    with reading(node.engine) as connection:
        assert len(connection.execute(select(notice)).all()) == 1


def test_a_database_that_is_away_is_told_from_memory_and_well_again_by_rows(
    node: Node, hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = Finding(HealthCode.DATABASE, facts={"told": "the database cannot be reached"})
    node.stands(DISK)
    with monkeypatch.context() as broken:
        broken.setattr(Notices, "lead", unreachable)
        node.stands(DISK, away)
        node.stands(DISK, away)
    assert hook.told == [BEGAN, ("database", "", "began")]

    node.stands(DISK)

    assert hook.told == [BEGAN, ("database", "", "began"), ("database", "", "over")]


def test_what_could_not_be_told_from_memory_is_told_by_rows(
    node: Node, hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = Finding(HealthCode.DATABASE, facts={"told": "the database cannot be reached"})
    node.stands()
    hook.status = 503
    with monkeypatch.context() as broken:
        broken.setattr(Notices, "lead", unreachable)
        node.stands(away)
    hook.status = 200

    node.stands()

    assert hook.told == [("database", "", "began"), ("database", "", "over")]


def unreachable(*_: object) -> bool:
    raise OperationalError("SELECT", {}, OSError("away"))


def test_what_waits_for_a_notifier_that_is_gone_waits_no_longer(node: Node, hook: Hook) -> None:
    hook.status = 500
    node.stands(DISK)
    node.watch.use(node, {"other": next(iter(node.notifiers.values()))})  # type: ignore[arg-type]

    node.stands(DISK, after_s=60.0)

    assert states(node.engine) == ["left"]


def test_after_a_week_nobody_is_told_any_more(node: Node, hook: Hook) -> None:
    hook.status = 500
    node.stands(DISK)
    for _ in range(20):
        node.stands(DISK, after_s=43_200.0)

    assert states(node.engine) == ["given up"]


def test_what_has_long_been_over_is_forgotten(node: Node, hook: Hook) -> None:
    node.stands(DISK)
    node.stands()

    Notices(node.engine).forget(node.now + 100 * 86_400.0)

    assert states(node.engine) == []
