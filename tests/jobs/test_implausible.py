"""A result that no patient can have: kept, shown, and delivered only when a person took it."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import Engine, select

from node.database.engine import reading
from node.domain.errors import NodeError
from node.domain.job import MatchState
from node.domain.reasons import ReasonCode, codes_of, has_code, reasons_from_json, told
from node.jobs.outbox import Outbox
from node.jobs.tables import match, outbox
from tests.jobs.test_store import LEASE_S, Road

CODES = ["implausible_volume", "implausible_sides"]
REASONS = [
    told(ReasonCode.IMPLAUSIBLE_VOLUME, "too large"),
    told(ReasonCode.IMPLAUSIBLE_SIDES, "turned"),
]


def codes(reasons: list[dict[str, Any]]) -> list[str]:
    return codes_of(reasons_from_json(reasons))


class KeptBack(Road):
    """Stores of one node, and a worker that finds its results implausible."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self.outbox = Outbox(engine, "c1", chance=lambda: 0.5)

    def find(self, make_file, name: str = "one", *, is_kept_back: bool = True) -> int:
        leased = self.leases.lease("w", LEASE_S)
        self.results.put_labels(leased.id, "w", make_file(name, "labels"))
        (row,) = self.results.put_results(
            leased.id,
            "w",
            [make_file(name)],
            forms=["seg"],
            reasons=REASONS,
            is_kept_back=is_kept_back,
        )
        return row

    def match_rows(self) -> list[tuple[str, list[str]]]:
        statement = select(match).order_by(match.c.revision, match.c.id)
        with reading(self.engine) as connection:
            return [(row.state, codes(row.reasons)) for row in connection.execute(statement)]


@pytest.fixture
def road(engine: Engine) -> KeptBack:
    return KeptBack(engine)


def test_it_is_kept_shown_with_its_codes_and_not_delivered(road, make_request, make_file) -> None:
    job_id, _ = road.jobs.enqueue(make_request(destinations=("pacs", "shelf")))

    road.find(make_file)

    row = road.job(job_id)
    assert (row.state, codes(row.reasons), row.owner) == ("implausible", CODES, None)
    assert road.match_rows() == [("implausible", CODES)]
    assert road.deliveries() == {"pacs": "withheld", "shelf": "withheld"}
    assert not road.outbox.is_any_due()


def test_accepting_it_delivers_it_and_keeps_its_codes(road, make_request, make_file) -> None:
    job_id, _ = road.jobs.enqueue(make_request())
    road.find(make_file)

    road.jobs.accept(job_id)

    row = road.job(job_id)
    assert (row.state, codes(row.reasons)) == ("done", CODES)
    assert has_code(reasons_from_json(row.reasons), ReasonCode.TAKEN_ALL_THE_SAME)
    assert road.match_rows() == [("done", CODES)]
    assert road.deliveries() == {"pacs": "waiting"}
    with pytest.raises(NodeError, match=f"job {job_id} is done and cannot be accepted"):
        road.jobs.accept(job_id)


def test_no_other_command_delivers_it(road, make_request, make_file) -> None:
    job_id, _ = road.jobs.enqueue(make_request())
    result_id = road.find(make_file)
    with reading(road.engine) as connection:
        delivery = connection.execute(select(outbox.c.id)).scalar_one()

    for deliver in (
        lambda: road.outbox.retry(delivery),
        lambda: road.outbox.send(result_id, "elsewhere"),
    ):
        with pytest.raises(NodeError, match=f"implausible: jobs accept {job_id}"):
            deliver()
    assert road.outbox.retry_destination("pacs") == 0
    with pytest.raises(NodeError, match="cannot be retried"):
        road.jobs.retry(job_id)

    assert road.deliveries() == {"pacs": "withheld"}


def test_another_rule_that_asks_joins_and_waits_too(road, make_request, make_file) -> None:
    job_id, _ = road.jobs.enqueue(make_request())
    road.find(make_file)

    again, is_new = road.jobs.enqueue(make_request(rule="other", destinations=("shelf",)))

    assert (again, is_new) == (job_id, False)
    assert road.matches.state("other", "1.2.3", 1) is MatchState.IMPLAUSIBLE
    assert road.deliveries() == {"pacs": "withheld", "shelf": "withheld"}
    road.jobs.accept(job_id)
    assert road.deliveries() == {"pacs": "waiting", "shelf": "waiting"}


def test_the_same_pixels_in_a_new_revision_do_not_free_it(road, make_request, make_file) -> None:
    job_id, _ = road.jobs.enqueue(make_request())
    road.find(make_file)

    again, _ = road.jobs.enqueue(make_request(revision=2))

    assert again == job_id
    assert road.match_rows() == [("superseded", []), ("implausible", CODES)]
    assert road.deliveries() == {"pacs": "withheld"}


def test_a_newer_revision_takes_its_place_and_the_older_can_no_longer_be_accepted(
    road, make_request, make_file
) -> None:
    job_id, _ = road.jobs.enqueue(make_request())
    road.find(make_file)

    road.jobs.enqueue(make_request("b", revision=2))

    assert road.job(job_id).state == "cancelled"
    with pytest.raises(NodeError, match="is cancelled"):
        road.jobs.accept(job_id)
    assert road.deliveries() == {"pacs": "withheld"}


def test_found_after_a_newer_revision_was_asked_for_it_is_cancelled(
    road, make_request, make_file
) -> None:
    job_id, _ = road.jobs.enqueue(make_request())
    leased = road.leases.lease("w", LEASE_S)
    road.jobs.enqueue(make_request("b", revision=2))

    road.results.put_results(
        leased.id, "w", [make_file()], forms=["seg"], reasons=REASONS, is_kept_back=True
    )

    assert road.job(job_id).state == "cancelled"
    assert road.deliveries() == {"pacs": "withheld"}


def test_what_was_delivered_stays_in_force_until_its_implausible_successor_is_accepted(
    road, make_request, make_file
) -> None:
    road.jobs.enqueue(make_request())
    old = road.run(make_file, "old")
    road.mark(old, "sent")
    newer, _ = road.jobs.enqueue(make_request("b", revision=2))

    road.find(make_file, "new")
    before = road.result_state(old)
    road.jobs.accept(newer)

    assert (before, road.result_state(old)) == ("current", "superseded")


def test_cancelled_it_stays_in_the_node_and_run_again_it_is_implausible_again(
    road, make_request, make_file
) -> None:
    job_id, _ = road.jobs.enqueue(make_request())
    road.find(make_file)

    road.jobs.cancel(job_id)
    asked_again, _ = road.jobs.enqueue(make_request(rule="other", destinations=("shelf",)))
    joined = road.deliveries()
    road.find(make_file)

    assert asked_again == job_id
    assert joined == {"pacs": "withheld", "shelf": "withheld"}
    assert road.job(job_id).state == "implausible"
    assert road.deliveries() == {"pacs": "withheld", "shelf": "withheld"}


def test_where_the_node_delivers_it_all_the_same_the_job_is_done_and_tells(
    road, make_request, make_file
) -> None:
    job_id, _ = road.jobs.enqueue(make_request())
    road.find(make_file)
    road.jobs.cancel(job_id)
    road.jobs.retry(job_id)

    road.find(make_file, is_kept_back=False)

    row = road.job(job_id)
    assert (row.state, codes(row.reasons)) == ("done", CODES)
    assert road.match_rows() == [("done", CODES)]
    assert road.deliveries() == {"pacs": "waiting"}


def test_its_files_are_kept_while_it_waits(road, make_request, make_file) -> None:
    job_id, _ = road.jobs.enqueue(make_request())
    road.find(make_file)

    assert road.results.retire(before=1e12) == ()
    road.jobs.cancel(job_id)
    assert len(road.results.retire(before=1e12)) == 2


def test_its_files_go_when_nobody_took_it_in_time(road, make_request, make_file) -> None:
    job_id, _ = road.jobs.enqueue(make_request())
    road.find(make_file)

    gone = road.results.retire(before=1e12, undecided_before=1e12)

    assert len(gone) == 2
    with pytest.raises(NodeError, match=f"job {job_id}: its result is not kept any more"):
        road.jobs.accept(job_id)
    assert road.job(job_id).state == "implausible"


def test_only_an_implausible_job_is_accepted(road, make_request, make_file) -> None:
    job_id, _ = road.jobs.enqueue(make_request())

    with pytest.raises(NodeError, match="is queued and cannot be accepted"):
        road.jobs.accept(job_id)
    with pytest.raises(NodeError, match="there is no job 99"):
        road.jobs.accept(99)
