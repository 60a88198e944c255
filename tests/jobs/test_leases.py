"""Leases: one owner at a time, attempts counted, nothing lost and nothing starved."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context

import pytest
from sqlalchemy import Engine, select

from node.database.engine import epoch_s, open_engine, reading
from node.domain.errors import LeaseLost, NodeError
from node.domain.job import JobState, MatchState, Priority
from node.domain.reasons import ReasonCode, told
from node.jobs.leases import JobLeases
from node.jobs.matches import MatchStore
from node.jobs.results import ResultStore
from node.jobs.store import JobStore
from node.jobs.tables import job

LEASE_S = 60.0


@pytest.fixture
def jobs(engine: Engine) -> JobStore:
    return JobStore(engine)


@pytest.fixture
def leases(engine: Engine) -> JobLeases:
    return JobLeases(engine)


BROKEN = told(ReasonCode.ATTEMPT_FAILED, "broken")
OUT_OF_MEMORY = told(ReasonCode.ATTEMPT_FAILED, "out of memory")
SHORT = told(ReasonCode.RESOURCE_SHORT, "no room on the disk")


def row(engine: Engine, job_id: int):
    with reading(engine) as connection:
        return connection.execute(select(job).where(job.c.id == job_id)).one()


def end(engine, job_id: int, owner: str, **at: float) -> None:
    """A job in which nothing was found."""
    ResultStore(engine).put_results(job_id, owner, [], forms=["seg"], **at)


def codes(engine: Engine, job_id: int) -> list[str]:
    return [reason["code"] for reason in row(engine, job_id).reasons]


def drain(database_url: str, owner: str) -> list[int]:
    """Lease until nothing is left; runs in a process of its own."""
    engine = open_engine(database_url)
    leases = JobLeases(engine)
    taken = []
    while leased := leases.lease(owner, LEASE_S):
        taken.append(leased.id)
        end(engine, leased.id, owner)
    engine.dispose()
    return taken


def test_four_processes_lease_each_of_200_jobs_once(jobs, database_url, make_request) -> None:
    ids = {jobs.enqueue(make_request(f"p{n}", series=f"1.{n}"))[0] for n in range(200)}

    with ProcessPoolExecutor(4, mp_context=get_context("spawn")) as pool:
        drained = pool.map(drain, [database_url] * 4, ["w1", "w2", "w3", "w4"])
        taken = [job_id for ids_of_one in drained for job_id in ids_of_one]

    assert Counter(taken) == Counter(ids)


def test_higher_priority_goes_first_then_age(jobs, leases, make_request) -> None:
    order = [
        jobs.enqueue(make_request(name, series=f"1.{n}", priority=priority), now=float(n))[0]
        for n, (name, priority) in enumerate(
            [("b", Priority.NORMAL), ("c", Priority.NORMAL), ("u", Priority.URGENT)]
        )
    ]

    taken = [leases.lease("w", LEASE_S, now=10.0).id for _ in range(3)]

    assert taken == [order[2], order[0], order[1]]


def test_jobs_of_a_model_that_is_left_to_others_are_not_taken(jobs, leases, make_request) -> None:
    first, _ = jobs.enqueue(make_request("a", series="1.1"), now=1.0)
    other = replace(make_request("b", series="1.2"), model="spleen_ct")
    second, _ = jobs.enqueue(other, now=2.0)

    taken = [leases.lease("w", LEASE_S, now=9.0, without=["ct_tissue"]) for _ in range(2)]

    assert [leased and leased.id for leased in taken] == [second, None]
    assert leases.lease("w", LEASE_S, now=9.0).id == first


def test_nothing_is_ready_where_all_is_left_to_others(jobs, leases, make_request) -> None:
    jobs.enqueue(make_request("a", series="1.1"), now=1.0)

    assert not leases.is_any_ready(now=9.0, without=["ct_tissue"])
    assert leases.is_any_ready(now=9.0, without=["spleen_ct"])


def test_priority_and_age_count_across_models(jobs, leases, make_request) -> None:
    wanted = [
        (3, "ct_tissue", Priority.NORMAL),
        (2, "spleen_ct", Priority.NORMAL),
        (0, "ct_tissue", Priority.URGENT),
        (1, "spleen_ct", Priority.URGENT),
        (4, "brain_mr", Priority.BACKGROUND),
    ]
    ids = {}
    for at, model, priority in wanted:
        request = make_request(f"p{at}", series=f"1.{at}", priority=priority)
        ids[jobs.enqueue(replace(request, model=model), now=float(at))[0]] = at

    taken = [ids[leases.lease("w", LEASE_S, now=10.0 + n).id] for n in range(5)]

    # after two urgent ones the oldest of all has its turn anyway
    assert taken == [0, 1, 2, 3, 4]


def test_the_job_that_waits_longest_overtakes_whatever_its_model(
    jobs, leases, make_request
) -> None:
    oldest = replace(make_request("b", priority=Priority.BACKGROUND), model="brain_mr")
    waiting, _ = jobs.enqueue(oldest, now=0.0)
    for n in range(9):
        urgent = make_request(f"u{n}", series=f"1.{n}", priority=Priority.URGENT)
        jobs.enqueue(urgent, now=1.0 + n)

    taken = [leases.lease("w", LEASE_S, now=100.0 + n).id for n in range(4)]

    assert taken.index(waiting) == 2


def test_a_job_that_waits_before_it_is_tried_again_hides_no_other(
    jobs, leases, make_request
) -> None:
    first, _ = jobs.enqueue(make_request("a", series="1.1"), now=0.0)
    second, _ = jobs.enqueue(make_request("b", series="1.2"), now=1.0)
    leases.lease("w", LEASE_S, now=2.0)
    leases.release(first, "w", wait_s=30.0, now=2.0)

    assert leases.lease("w", LEASE_S, now=3.0).id == second
    assert not leases.is_any_ready(now=3.0)
    assert leases.is_any_ready(now=33.0)


def test_background_has_its_turn_while_urgent_work_never_ends(jobs, leases, make_request) -> None:
    waiting, _ = jobs.enqueue(make_request("b", priority=Priority.BACKGROUND), now=0.0)
    for n in range(9):
        urgent = make_request(f"u{n}", series=f"1.{n}", priority=Priority.URGENT)
        jobs.enqueue(urgent, now=1.0 + n)

    taken = [leases.lease("w", LEASE_S, now=100.0 + n).id for n in range(4)]

    assert taken.index(waiting) == 2


def test_a_leased_job_is_leased_by_nobody_else(jobs, leases, make_request) -> None:
    jobs.enqueue(make_request())

    assert leases.lease("w1", LEASE_S) is not None
    assert leases.lease("w2", LEASE_S) is None


def test_leases_are_counted_by_the_clock_of_the_database(
    jobs, leases, engine, make_request
) -> None:
    jobs.enqueue(make_request())

    leased = leases.lease("w", LEASE_S)

    with reading(engine) as connection:
        assert row(engine, leased.id).lease_until == pytest.approx(
            epoch_s(connection) + LEASE_S, abs=5
        )


def test_a_worker_that_lost_its_lease_changes_nothing(jobs, leases, engine, make_request) -> None:
    job_id, _ = jobs.enqueue(make_request(), now=0.0)
    leases.lease("slow", LEASE_S, now=0.0)
    leases.reap(now=61.0)
    leases.lease("quick", LEASE_S, now=61.0)

    for act in (
        lambda: leases.heartbeat(job_id, "slow", LEASE_S, now=62.0),
        lambda: leases.stage(job_id, "slow", "infer", 1.0),
        lambda: end(engine, job_id, "slow", now=62.0),
        lambda: leases.fail(job_id, "slow", [BROKEN], now=62.0),
        lambda: leases.release(job_id, "slow", now=62.0),
    ):
        with pytest.raises(LeaseLost):
            act()

    assert (row(engine, job_id).state, row(engine, job_id).owner) == ("running", "quick")


def test_a_heartbeat_keeps_the_lease(jobs, leases, make_request) -> None:
    job_id, _ = jobs.enqueue(make_request(), now=0.0)
    leases.lease("w", LEASE_S, now=0.0)
    leases.heartbeat(job_id, "w", LEASE_S, now=50.0)

    assert leases.reap(now=61.0) == 0
    assert leases.reap(now=111.0) == 1


def test_three_crashes_of_the_node_park_no_job_and_count_as_no_attempt(
    jobs, leases, engine, make_request
) -> None:
    job_id, _ = jobs.enqueue(make_request(), now=0.0)
    for crash in range(3):
        assert leases.lease("w", LEASE_S, now=float(crash)).attempts == 1
        assert leases.take_back("w", now=float(crash)) == 1

    assert codes(engine, job_id) == ["worker_lost"]
    assert leases.lease("w", LEASE_S, now=3.0).attempts == 1


def test_a_job_that_loses_one_worker_after_the_other_lets_others_go_first(
    jobs, leases, make_request
) -> None:
    killer, _ = jobs.enqueue(make_request("a"), now=0.0)
    other, _ = jobs.enqueue(make_request("b", series="1.2.4"), now=1.0)
    for crash in range(4):
        assert leases.lease("w", LEASE_S, now=2.0 + crash).id == killer
        leases.take_back("w", now=2.0 + crash)

    assert leases.lease("w", LEASE_S, now=6.0).id == other


def test_a_failure_ends_a_row_of_lost_workers(jobs, leases, engine, make_request) -> None:
    job_id, _ = jobs.enqueue(make_request(), now=0.0)
    for _ in range(3):
        leases.lease("w", LEASE_S, now=0.0)
        leases.take_back("w", now=0.0)
    leases.lease("w", LEASE_S, now=0.0)
    leases.fail(job_id, "w", [OUT_OF_MEMORY], now=0.0)

    assert (row(engine, job_id).attempts, row(engine, job_id).lost) == (1, 0)


def test_a_job_that_loses_ten_workers_in_a_row_is_parked(
    jobs, leases, engine, make_request
) -> None:
    job_id, _ = jobs.enqueue(make_request(), now=0.0)
    for crash in range(10):
        leases.lease("w", LEASE_S, now=crash * 200.0)
        leases.reap(now=crash * 200.0 + 61.0)

    assert leases.lease("w", LEASE_S, now=9000.0) is None
    assert row(engine, job_id).state == JobState.PARKED
    assert codes(engine, job_id) == ["kills_workers"]
    assert MatchStore(engine).state("chest", "1.2.3", 1) is MatchState.PARKED


def test_failures_are_tried_again_later_and_parked_after_three(
    jobs, leases, engine, make_request
) -> None:
    job_id, _ = jobs.enqueue(make_request(), now=0.0)
    states, now = [], 0.0
    for _ in range(3):
        assert leases.lease("w", LEASE_S, now=now) is not None
        states.append(leases.fail(job_id, "w", [OUT_OF_MEMORY], now=now))
        assert leases.lease("w", LEASE_S, now=now) is None
        now += 100.0

    assert states == [JobState.QUEUED, JobState.QUEUED, JobState.PARKED]
    (why,) = row(engine, job_id).reasons
    assert why["facts"] == {"told": "out of memory", "attempt": 3, "attempts": 3}


def test_a_permanent_failure_is_not_tried_again(jobs, leases, make_request) -> None:
    job_id, _ = jobs.enqueue(make_request(), now=0.0)
    leases.lease("w", LEASE_S, now=0.0)

    state = leases.fail(job_id, "w", [BROKEN], permanent=True, now=0.0)

    assert state is JobState.FAILED
    assert leases.lease("w", LEASE_S, now=9999.0) is None


def test_a_drain_gives_the_attempt_back(jobs, leases, make_request) -> None:
    job_id, _ = jobs.enqueue(make_request(), now=0.0)
    for _ in range(5):
        leased = leases.lease("w", LEASE_S, now=0.0)
        leases.release(job_id, "w", now=0.0)

    assert leased.attempts == 1


def test_a_shortage_lets_the_job_wait_and_costs_no_attempt(
    jobs, leases, engine, make_request
) -> None:
    job_id, _ = jobs.enqueue(make_request(), now=0.0)
    leases.lease("w", LEASE_S, now=0.0)

    leases.release(job_id, "w", reasons=[SHORT], wait_s=30.0, now=1.0)

    assert leases.lease("w", LEASE_S, now=30.9) is None
    assert codes(engine, job_id) == ["resource_short"]
    assert leases.lease("w", LEASE_S, now=31.1).attempts == 1


def test_what_a_dead_worker_held_is_free_at_once(jobs, leases, make_request) -> None:
    mine, _ = jobs.enqueue(make_request("a"), now=0.0)
    other, _ = jobs.enqueue(make_request("b", series="1.2.4"), now=0.0)
    assert leases.lease("dead", LEASE_S, now=0.0).id == mine
    assert leases.lease("alive", LEASE_S, now=0.0).id == other

    assert leases.take_back("dead", now=1.0) == 1

    assert leases.lease("next", LEASE_S, now=1.0).id == mine
    assert leases.lease("next", LEASE_S, now=1.0) is None


def test_a_cancelled_job_is_lost_to_its_worker_until_retried(
    jobs, leases, engine, make_request
) -> None:
    job_id, _ = jobs.enqueue(make_request(), now=0.0)
    leases.lease("w", LEASE_S, now=0.0)
    jobs.cancel(job_id)

    with pytest.raises(LeaseLost):
        leases.heartbeat(job_id, "w", LEASE_S)
    assert leases.lease("w", LEASE_S) is None

    jobs.retry(job_id)
    assert leases.lease("w", LEASE_S).attempts == 1
    assert MatchStore(engine).state("chest", "1.2.3", 1) is MatchState.RUNNING


@pytest.mark.parametrize("verb", ["cancel", "retry"])
def test_what_cannot_be_done_to_a_job_is_said(verb, jobs, leases, engine, make_request) -> None:
    job_id, _ = jobs.enqueue(make_request())
    leases.lease("w", LEASE_S)
    end(engine, job_id, "w")

    with pytest.raises(NodeError, match=f"job {job_id} is done"):
        getattr(jobs, verb)(job_id)
    with pytest.raises(NodeError, match="there is no job"):
        getattr(jobs, verb)(job_id + 1)


def test_stage_times_add_up_in_the_row(jobs, leases, engine, make_request) -> None:
    job_id, _ = jobs.enqueue(make_request())
    leases.lease("w", LEASE_S)
    for stage, seconds in (("read", 0.25), ("invert", 0.75), ("infer", 1.5), ("invert", 0.0)):
        leases.stage(job_id, "w", stage, seconds)
    leases.stage(job_id, "w", "read", 0.5)

    assert row(engine, job_id).stages == {"read": 0.75, "invert": 0.75, "infer": 1.5}


def test_stages_of_an_attempt_that_failed_are_not_those_of_the_next(
    jobs, leases, engine, make_request
) -> None:
    job_id, _ = jobs.enqueue(make_request())
    leases.lease("w", LEASE_S)
    leases.stage(job_id, "w", "network", 9.0)
    leases.release(job_id, "w")

    leases.lease("w", LEASE_S)
    leases.stage(job_id, "w", "read", 0.5)

    assert row(engine, job_id).stages == {"read": 0.5}
