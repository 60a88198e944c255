"""A form that is asked for when a job has ended: what is made is delivered, what is not is made."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine, select

from node.database.engine import reading
from node.domain.delivery import FormsTaken
from node.domain.errors import NodeError
from node.domain.job import MatchState
from node.domain.reasons import ReasonCode, told
from node.jobs.outbox import Outbox
from node.jobs.tables import outbox, result
from tests.jobs.test_store import LEASE_S, Road

TAKEN = FormsTaken({"shelf": ("nifti",), "both": ("seg", "nifti")})
REASONS = [told(ReasonCode.IMPLAUSIBLE_VOLUME, "too large")]


class ManyForms(Road):
    """Stores of one node, and a worker that makes what destinations take."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self.outbox = Outbox(engine, "c1", chance=lambda: 0.5, taken=TAKEN)

    def work(self, make_file, name: str = "one", **how: object) -> tuple[str, ...]:
        """Lease one job and make what is missing of it; returns which forms those were."""
        leased = self.leases.lease("w", LEASE_S)
        due = tuple(f for f in TAKEN.of_all(leased.destinations) if f not in leased.forms)
        self.results.put_labels(leased.id, "w", make_file(name, "labels"))
        files = [make_file(name, form) for form in due]
        self.results.put_results(leased.id, "w", files, forms=due, taken=TAKEN, **how)
        return due

    def sent(self) -> set[tuple[str, str, str]]:
        """Form, destination and state of every delivery."""
        statement = select(result.c.form, outbox.c.destination, outbox.c.state).join(
            result, result.c.id == outbox.c.result_id
        )
        with reading(self.engine) as connection:
            return {tuple(row) for row in connection.execute(statement)}


@pytest.fixture
def road(engine: Engine) -> ManyForms:
    return ManyForms(engine)


def test_each_destination_gets_the_forms_that_it_takes(road, make_request, make_file) -> None:
    job_id, _ = road.jobs.enqueue(make_request(destinations=("pacs", "shelf", "both")))

    assert road.work(make_file) == ("seg", "nifti")

    assert road.job(job_id).forms == ["seg", "nifti"]
    assert road.sent() == {
        ("seg", "pacs", "waiting"),
        ("nifti", "shelf", "waiting"),
        ("seg", "both", "waiting"),
        ("nifti", "both", "waiting"),
    }


def test_a_rule_that_asks_later_for_another_form_has_only_that_made(
    road, make_request, make_file
) -> None:
    job_id, _ = road.jobs.enqueue(make_request(destinations=("pacs",)))
    road.work(make_file)
    asked = make_request(rule="later", destinations=("shelf",), taken=TAKEN)

    assert road.jobs.enqueue(asked) == (job_id, False)

    assert road.job(job_id).state == "queued"
    assert road.matches.state("later", "1.2.3", 1) is MatchState.QUEUED
    assert road.results.retire(before=1e12) == ()  # its labels are what the next attempt needs
    assert road.work(make_file) == ("nifti",)
    assert road.sent() == {("seg", "pacs", "waiting"), ("nifti", "shelf", "waiting")}
    assert road.job(job_id).state == "done"


def test_a_destination_that_takes_what_is_made_gets_it_at_once(
    road, make_request, make_file
) -> None:
    job_id, _ = road.jobs.enqueue(make_request(destinations=("pacs", "shelf")))
    road.work(make_file)

    road.jobs.enqueue(make_request(rule="later", destinations=("both",), taken=TAKEN))

    assert road.job(job_id).state == "done"
    assert {("seg", "both", "waiting"), ("nifti", "both", "waiting")} <= road.sent()


def test_a_form_asked_for_while_the_job_runs_is_made_after_it(
    road, make_request, make_file
) -> None:
    job_id, _ = road.jobs.enqueue(make_request(destinations=("pacs",)))
    leased = road.leases.lease("w", LEASE_S)
    road.jobs.enqueue(make_request(rule="later", destinations=("shelf",), taken=TAKEN))

    road.results.put_results(leased.id, "w", [make_file()], forms=["seg"], taken=TAKEN)

    assert road.job(job_id).state == "queued"
    assert road.work(make_file) == ("nifti",)
    assert road.sent() == {("seg", "pacs", "waiting"), ("nifti", "shelf", "waiting")}


def test_a_form_without_a_file_is_not_made_again(road, make_request, make_file) -> None:
    job_id, _ = road.jobs.enqueue(make_request(destinations=("pacs",)))
    road.leases.lease("w", LEASE_S)
    road.results.put_results(job_id, "w", [], forms=["seg"], taken=TAKEN)

    road.jobs.enqueue(make_request(rule="later", destinations=("archive",), taken=TAKEN))

    assert road.job(job_id).state == "done"
    assert road.sent() == set()


def test_sending_a_result_to_who_takes_another_form_has_that_made(
    road, make_request, make_file
) -> None:
    job_id, _ = road.jobs.enqueue(make_request(destinations=("pacs",)))
    road.work(make_file)
    (seg,) = (one.id for one in road.results.files_of(job_id))

    road.outbox.send(seg, "shelf")

    assert road.work(make_file) == ("nifti",)
    assert ("nifti", "shelf", "waiting") in road.sent()
    assert ("seg", "shelf", "waiting") not in road.sent()


def test_sending_it_again_makes_nothing_and_sends_what_was_made(
    road, make_request, make_file
) -> None:
    job_id, _ = road.jobs.enqueue(make_request(destinations=("pacs", "shelf")))
    road.work(make_file)
    seg, nifti = (one.id for one in road.results.files_of(job_id))
    road.mark(nifti, "sent")

    road.outbox.send(seg, "shelf")

    assert road.job(job_id).state == "done"
    assert ("nifti", "shelf", "waiting") in road.sent()


def test_giving_a_job_that_is_not_there_is_said(road) -> None:
    with pytest.raises(NodeError, match="there is no job 7"):
        road.jobs.give(7, ["shelf"], TAKEN)


def test_what_a_person_took_stays_taken(road, make_request, make_file) -> None:
    job_id, _ = road.jobs.enqueue(make_request(destinations=("pacs",)))
    road.work(make_file, reasons=REASONS, is_kept_back=True)
    road.jobs.accept(job_id)
    (seg,) = (one.id for one in road.results.files_of(job_id))

    road.outbox.send(seg, "shelf")
    road.outbox.send(seg, "pacs")  # while the other form is made

    assert road.leases.is_any_ready()
    assert road.work(make_file, reasons=REASONS) == ("nifti",)
    assert road.sent() == {("seg", "pacs", "waiting"), ("nifti", "shelf", "waiting")}


def test_what_is_kept_back_stays_so_in_every_form(road, make_request, make_file) -> None:
    job_id, _ = road.jobs.enqueue(make_request(destinations=("pacs",)))
    road.work(make_file, reasons=REASONS, is_kept_back=True)

    road.jobs.enqueue(make_request(rule="later", destinations=("shelf",), taken=TAKEN))
    leased = road.leases.lease("w", LEASE_S)
    assert leased.settled == "implausible"
    road.results.put_results(
        job_id, "w", [make_file(form="nifti")], forms=["nifti"], taken=TAKEN, reasons=REASONS,
        is_kept_back=True,
    )  # fmt: skip

    assert road.job(job_id).state == "implausible"
    assert road.sent() == {("seg", "pacs", "withheld"), ("nifti", "shelf", "withheld")}
    road.jobs.accept(job_id)
    assert road.sent() == {("seg", "pacs", "waiting"), ("nifti", "shelf", "waiting")}


def test_a_worker_that_was_lost_costs_only_the_form_that_it_made(
    road, make_request, make_file
) -> None:
    job_id, _ = road.jobs.enqueue(make_request(destinations=("pacs",)), now=0.0)
    road.work(make_file)
    road.jobs.give(job_id, ["shelf"], TAKEN, now=1.0)
    road.leases.lease("lost", LEASE_S, now=2.0)

    road.leases.take_back("lost", now=3.0)

    assert road.work(make_file) == ("nifti",)
    assert road.sent() == {("seg", "pacs", "waiting"), ("nifti", "shelf", "waiting")}


def test_what_retention_took_is_made_again_for_who_asks(road, make_request, make_file) -> None:
    job_id, _ = road.jobs.enqueue(make_request(destinations=("pacs",)))
    road.work(make_file)
    (seg,) = (one.id for one in road.results.files_of(job_id))
    road.mark(seg, "sent")
    assert len(road.results.retire(before=1e12)) == 2

    road.jobs.enqueue(make_request(rule="later", destinations=("archive",), taken=TAKEN))

    assert road.work(make_file) == ("seg",)
    assert road.sent() == {("seg", "pacs", "sent"), ("seg", "archive", "waiting")}


def test_what_retention_left_counts_as_made(road, make_request, make_file) -> None:
    job_id, _ = road.jobs.enqueue(make_request(destinations=("pacs",)))
    road.work(make_file)
    assert [one.file.form for one in road.results.retire(before=1e12)] == ["labels"]

    road.jobs.enqueue(make_request(rule="later", destinations=("archive",), taken=TAKEN))

    assert road.job(job_id).state == "done"
    assert road.sent() == {("seg", "pacs", "waiting"), ("seg", "archive", "waiting")}


def test_all_files_of_a_revision_are_superseded_by_the_next(road, make_request, make_file) -> None:
    job_id, _ = road.jobs.enqueue(make_request(destinations=("both",)))
    road.work(make_file)
    for one in road.results.files_of(job_id):
        road.mark(one.id, "sent")
    later, _ = road.jobs.enqueue(make_request("b", revision=2, destinations=("both",)))

    road.work(make_file, "two")

    assert road.job(later).replaces == make_file("one", "seg").sop_instance_uid
    assert [one.state for one in road.results.files_of(job_id)] == ["superseded"] * 2
