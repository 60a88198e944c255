"""One job per key; revisions; what is durable is never made again (A12)."""

from __future__ import annotations

import re

import pytest
from sqlalchemy import Engine, select

from node.database.engine import reading
from node.domain.errors import LeaseLost, ResultRefused
from node.domain.job import MatchState, Priority
from node.domain.reasons import Reason, ReasonCode, told
from node.jobs.catalog import JobCatalog
from node.jobs.leases import JobLeases
from node.jobs.matches import MatchStore
from node.jobs.results import ResultStore
from node.jobs.retention import StudyWork, work_of
from node.jobs.store import FIRST_SERIES_NUMBER, JobStore
from node.jobs.tables import job, outbox, result
from node.jobs.values import MatchReport

LEASE_S = 60.0


class Road:
    """The stores of one node, and a worker that makes results."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.jobs = JobStore(engine)
        self.leases = JobLeases(engine)
        self.results = ResultStore(engine)
        self.matches = MatchStore(engine)

    def run(self, make_file, name: str = "one") -> int:
        """Lease one job and make its labels and its object; returns the object's row."""
        leased = self.leases.lease("w", LEASE_S)
        self.results.put_labels(leased.id, "w", make_file(name, "labels"))
        return self.put(leased.id, make_file(name))

    def put(self, job_id: int, *files, owner: str = "w") -> int:
        """Record the files of a job in the forms that they have; returns the first row."""
        forms = {file.form for file in files}
        return self.results.put_results(job_id, owner, files, forms=forms)[0]

    def deliveries(self, result_id: int | None = None) -> dict[str, str]:
        statement = select(outbox)
        if result_id is not None:
            statement = statement.where(outbox.c.result_id == result_id)
        with reading(self.engine) as connection:
            return {row.destination: row.state for row in connection.execute(statement)}

    def mark(self, result_id: int, state: str) -> None:
        with self.engine.begin() as connection:
            connection.execute(
                outbox.update().where(outbox.c.result_id == result_id).values(state=state)
            )

    def work_of(self, study: str) -> StudyWork:
        with reading(self.engine) as connection:
            return work_of(connection, [study])[study]

    def job(self, job_id: int):
        with reading(self.engine) as connection:
            return connection.execute(select(job).where(job.c.id == job_id)).one()

    def result_state(self, result_id: int) -> str:
        with reading(self.engine) as connection:
            return connection.execute(
                select(result.c.state).where(result.c.id == result_id)
            ).scalar_one()


@pytest.fixture
def road(engine: Engine) -> Road:
    return Road(engine)


def test_two_rules_with_one_key_share_one_job(road, make_request) -> None:
    first = road.jobs.enqueue(make_request(destinations=("pacs",), priority=Priority.BACKGROUND))
    second = road.jobs.enqueue(
        make_request(rule="lung", destinations=("shelf", "pacs"), priority=Priority.URGENT)
    )

    leased = road.leases.lease("w", LEASE_S)
    assert (first[1], second) == (True, (first[0], False))
    assert leased.destinations == ("pacs", "shelf")
    assert road.job(leased.id).priority == Priority.URGENT
    assert road.leases.lease("w", LEASE_S) is None
    assert road.matches.state("lung", "1.2.3", 1) is MatchState.RUNNING


def test_a_destination_added_after_the_run_gets_a_delivery_and_no_run(
    road, make_request, make_file
) -> None:
    road.jobs.enqueue(make_request())
    result_id = road.run(make_file)

    _, created = road.jobs.enqueue(make_request(rule="lung", destinations=("shelf",)))

    assert not created
    assert road.leases.lease("w", LEASE_S) is None
    assert road.deliveries(result_id) == {"pacs": "waiting", "shelf": "waiting"}
    assert road.matches.state("lung", "1.2.3", 1) is MatchState.DONE


def test_the_same_request_again_changes_nothing(road, make_request, make_file) -> None:
    road.jobs.enqueue(make_request())
    result_id = road.run(make_file)
    road.mark(result_id, "sent")

    road.jobs.enqueue(make_request())

    assert road.deliveries(result_id) == {"pacs": "sent"}


def test_a_parked_job_waits_for_a_person_whoever_asks(road, make_request) -> None:
    job_id, _ = road.jobs.enqueue(make_request())
    road.leases.lease("w", LEASE_S)
    road.leases.fail(job_id, "w", [told(ReasonCode.ATTEMPT_FAILED, "no good")], permanent=True)

    road.jobs.enqueue(make_request(rule="lung"))

    assert road.leases.lease("w", LEASE_S) is None
    assert road.matches.state("lung", "1.2.3", 1) is MatchState.FAILED


def test_a_cancelled_job_runs_again_for_a_new_wish_only(road, make_request) -> None:
    job_id, _ = road.jobs.enqueue(make_request())
    road.jobs.cancel(job_id)

    road.jobs.enqueue(make_request())
    assert road.leases.lease("w", LEASE_S) is None

    road.jobs.enqueue(make_request(rule="lung"))
    assert road.leases.lease("w", LEASE_S).id == job_id


def test_an_amended_name_is_no_second_run_and_a_waiting_job_carries_it(road, make_request) -> None:
    job_id, _ = road.jobs.enqueue(make_request(version=1))

    same, created = road.jobs.enqueue(make_request(revision=2, version=2))

    leased = road.leases.lease("w", LEASE_S)
    assert (same, created) == (job_id, False)
    assert (leased.revision, leased.inputs["image"]["instances"]) == (2, {"1.2.3.1": 2})
    assert road.leases.lease("w", LEASE_S) is None


def test_labels_that_are_durable_are_handed_to_the_next_attempt(
    road, make_request, make_file
) -> None:
    job_id, _ = road.jobs.enqueue(make_request(), now=0.0)
    road.leases.lease("w1", LEASE_S, now=0.0)
    road.results.put_labels(job_id, "w1", make_file(form="labels"))
    road.leases.reap(now=61.0)

    leased = road.leases.lease("w2", LEASE_S, now=62.0)

    assert leased.forms == ()
    with reading(road.engine) as connection:
        kept = connection.execute(select(result.c.sha256)).scalars().all()
    assert kept == [make_file(form="labels").sha256]


def test_the_object_ends_its_job_and_fills_the_outbox_at_once(
    road, make_request, make_file
) -> None:
    job_id, _ = road.jobs.enqueue(make_request(destinations=("pacs", "shelf")))

    result_id = road.run(make_file)

    assert road.job(job_id).state == "done"
    assert road.deliveries(result_id) == {"pacs": "waiting", "shelf": "waiting"}
    assert road.matches.state("chest", "1.2.3", 1) is MatchState.DONE


def test_an_object_of_a_stale_worker_leaves_no_trace(road, make_request, make_file) -> None:
    job_id, _ = road.jobs.enqueue(make_request(), now=0.0)
    road.leases.lease("slow", LEASE_S, now=0.0)
    road.leases.reap(now=61.0)

    with pytest.raises(LeaseLost):
        road.put(job_id, make_file(), owner="slow")

    assert road.deliveries() == {}
    assert road.leases.lease("quick", LEASE_S, now=62.0).forms == ()


def test_the_same_object_twice_is_one_row_and_another_is_refused(
    road, make_request, make_file
) -> None:
    job_id, _ = road.jobs.enqueue(make_request())
    result_id = road.run(make_file)

    assert road.put(job_id, make_file()) == result_id
    with pytest.raises(ResultRefused):
        road.put(job_id, make_file("other"))
    assert road.deliveries() == {"pacs": "waiting"}


@pytest.mark.parametrize("destinations", [(), ("",)])
def test_an_unknown_sender_is_shown_and_no_error(
    destinations, road, make_request, make_file
) -> None:
    road.jobs.enqueue(make_request(destinations=destinations))

    result_id = road.run(make_file)

    assert road.deliveries(result_id) == {"": "no_destination"}


def test_a_newer_revision_cancels_what_waits(road, make_request) -> None:
    old, _ = road.jobs.enqueue(make_request("a"))
    new, _ = road.jobs.enqueue(make_request("b", revision=2))

    assert road.job(old).state == "cancelled"
    assert road.leases.lease("w", LEASE_S).id == new
    assert road.leases.lease("w", LEASE_S) is None
    assert road.matches.state("chest", "1.2.3", 1) is MatchState.SUPERSEDED


def test_a_late_request_for_an_older_revision_runs_nothing(road, make_request) -> None:
    new, _ = road.jobs.enqueue(make_request("b", revision=2))
    old, _ = road.jobs.enqueue(make_request("a", revision=1))

    assert road.job(old).state == "cancelled"
    assert road.leases.lease("w", LEASE_S).id == new
    assert road.leases.lease("w", LEASE_S) is None


def test_opening_a_revision_is_enough_to_stop_older_work(road, make_request) -> None:
    old, _ = road.jobs.enqueue(make_request("a"))

    road.jobs.supersede("1.2", "chest", "1.2.3", 2)

    assert road.job(old).state == "cancelled"


def test_a_running_older_revision_finishes_and_is_withheld(road, make_request, make_file) -> None:
    old, _ = road.jobs.enqueue(make_request("a"))
    road.leases.lease("w", LEASE_S)
    road.jobs.enqueue(make_request("b", revision=2))

    result_id = road.put(old, make_file())

    assert road.deliveries(result_id) == {"pacs": "withheld"}
    assert road.matches.state("chest", "1.2.3", 1) is MatchState.SUPERSEDED


def test_an_undelivered_older_revision_is_withheld_and_not_replaced(
    road, make_request, make_file
) -> None:
    road.jobs.enqueue(make_request("a"))
    old = road.run(make_file)
    new, _ = road.jobs.enqueue(make_request("b", revision=2))

    assert road.deliveries(old) == {"pacs": "withheld"}
    assert road.job(new).replaces == ""


def test_a_delivered_older_revision_is_named_and_then_superseded(
    road, make_request, make_file
) -> None:
    road.jobs.enqueue(make_request("a"))
    old = road.run(make_file)
    road.mark(old, "sent")
    road.jobs.enqueue(make_request("b", revision=2))
    assert road.result_state(old) == "current"

    leased = road.leases.lease("w", LEASE_S)
    new = road.put(leased.id, make_file("two"))

    assert leased.replaces == make_file().sop_instance_uid
    assert (road.result_state(old), road.result_state(new)) == ("superseded", "current")
    assert road.deliveries(old) == {"pacs": "sent"}
    assert road.deliveries(new) == {"pacs": "waiting"}


def test_a_third_revision_names_the_newest_that_was_delivered(
    road, make_request, make_file
) -> None:
    road.jobs.enqueue(make_request("a"))
    road.mark(road.run(make_file), "sent")
    road.jobs.enqueue(make_request("b", revision=2))
    road.run(make_file, "two")
    third, _ = road.jobs.enqueue(make_request("c", revision=3))

    assert road.job(third).replaces == make_file().sop_instance_uid


def test_a_job_that_another_rule_still_wants_is_left_alone(road, make_request) -> None:
    shared, _ = road.jobs.enqueue(make_request("a"))
    road.jobs.enqueue(make_request("a", rule="lung"))

    road.jobs.enqueue(make_request("b", revision=2))

    assert road.job(shared).state == "queued"


def test_a_revision_that_comes_back_to_old_pixels_is_in_force_again(
    road, make_request, make_file
) -> None:
    road.jobs.enqueue(make_request("a"))
    old = road.run(make_file)
    road.jobs.enqueue(make_request("b", revision=2))
    road.run(make_file, "two")

    _, created = road.jobs.enqueue(make_request("a", revision=3))

    assert not created
    assert road.result_state(old) == "current"
    assert road.deliveries(old) == {"pacs": "waiting"}


def test_another_model_for_the_same_revision_takes_the_place_of_the_old_one(
    road, make_request, make_file
) -> None:
    road.jobs.enqueue(make_request("a"))
    old = road.run(make_file)
    road.mark(old, "sent")

    new, created = road.jobs.enqueue(make_request("a with another model"))
    road.run(make_file, "two")

    assert created
    assert road.job(new).replaces == make_file().sop_instance_uid
    assert road.result_state(old) == "superseded"


def test_nothing_found_is_done_without_an_object(road, make_request) -> None:
    job_id, _ = road.jobs.enqueue(make_request())
    road.leases.lease("w", LEASE_S)

    nothing = [Reason(ReasonCode.NOTHING_FOUND)]
    road.results.put_results(job_id, "w", [], forms=["seg"], reasons=nothing)

    assert road.job(job_id).state == "done"
    assert road.job(job_id).reasons == [{"code": "nothing_found", "facts": {}}]
    assert road.matches.state("chest", "1.2.3", 1) is MatchState.DONE
    assert road.deliveries() == {}


def test_a_retry_is_encoded_with_the_date_and_number_of_the_first_attempt(
    road, make_request
) -> None:
    road.jobs.enqueue(make_request(), now=0.0)
    first = road.leases.lease("w1", LEASE_S, now=0.0)
    road.leases.reap(now=86400.0)

    second = road.leases.lease("w2", LEASE_S, now=2 * 86400.0)

    fixed = ("content_date", "content_time", "series_number", "job_key", "revision")
    assert [getattr(second, name) for name in fixed] == [getattr(first, name) for name in fixed]
    assert re.fullmatch(r"(1969|1970)\d{4}", second.content_date)


def test_series_numbers_of_a_study_never_collide(road, make_request) -> None:
    taken = frozenset({FIRST_SERIES_NUMBER + 1})
    ids = [
        road.jobs.enqueue(
            make_request(name, series=f"1.{name}", study=study, taken_series_numbers=taken)
        )[0]
        for name, study in (("7", "1.2"), ("8", "1.2"), ("9", "1.3"))
    ]

    numbers = [road.job(job_id).series_number - FIRST_SERIES_NUMBER for job_id in ids]

    assert numbers == [0, 2, 0]


def test_a_report_never_overwrites_a_match_that_has_a_job(road, make_request) -> None:
    road.jobs.enqueue(make_request())
    report = MatchReport(
        rule="chest",
        study_instance_uid="1.2",
        series_key="1.2.3",
        made_of={},
        revision=1,
        state=MatchState.HELD,
    )

    road.matches.put(report)

    assert road.matches.state("chest", "1.2.3", 1) is MatchState.QUEUED


def test_a_held_match_becomes_queued_when_its_job_is_made(road, make_request) -> None:
    report = MatchReport(
        rule="chest",
        study_instance_uid="1.2",
        series_key="1.2.3",
        made_of={},
        revision=1,
        state=MatchState.HELD,
        reasons=(told(ReasonCode.TOLD, "waits for more slices"),),
    )
    road.matches.put(report)
    road.matches.put(report)
    assert JobCatalog(road.engine).list_matches().total == 1
    assert road.matches.state("chest", "1.2.3", 1) is MatchState.HELD

    road.jobs.enqueue(make_request())

    assert road.matches.state("chest", "1.2.3", 1) is MatchState.QUEUED
    assert road.matches.newest("chest", "1.2.3").revision == 1


def test_what_is_needed_is_never_deletable(road, make_request, make_file) -> None:
    road.jobs.enqueue(make_request())
    assert road.work_of("1.2").in_use == {"1.2.3"}
    result_id = road.run(make_file)

    assert road.work_of("1.2").in_use == set()
    assert [r.file.form for r in road.results.retire(before=1e12)] == ["labels"]

    road.mark(result_id, "sent")
    assert road.results.retire(before=0.0) == ()
    assert [r.id for r in road.results.retire(before=1e12)] == [result_id]
    assert road.results.retire(before=1e12) == ()


def test_a_deleted_result_is_made_anew_under_its_old_row(road, make_request, make_file) -> None:
    job_id, _ = road.jobs.enqueue(make_request())
    road.leases.lease("w", LEASE_S)
    labels = road.results.put_labels(job_id, "w", make_file(form="labels"))
    assert road.results.retire(before=1e12) == ()  # the job may need them still
    road.jobs.cancel(job_id)
    road.results.retire(before=1e12)
    road.jobs.retry(job_id)

    assert road.leases.lease("w", LEASE_S).forms == ()
    assert road.results.put_labels(job_id, "w", make_file("new", "labels")) == labels
    assert JobCatalog(road.engine).get_result(labels)["state"] == "current"
