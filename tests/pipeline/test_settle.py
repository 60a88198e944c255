"""The tick: what completes a series, what a person decides, what a crash leaves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from node.domain.instance import Ending, SeriesState
from node.pipeline import settle as settle_module
from node.pipeline import studies as studies_module
from node.spool.catalog import SpoolCatalog
from tests.support.node_in_process import SharedWorker
from tests.support.segmentations import of_phantom
from tests.support.simulated_node import CT_RULE, SimulatedNode, ct, said, simulated_node


@pytest.fixture
def node(tmp_path: Path, worker: SharedWorker) -> Iterator[SimulatedNode]:
    with simulated_node(tmp_path, worker) as simulated:
        yield simulated


def jobs(node: SimulatedNode) -> list[tuple[int, str]]:
    return [(row["revision"], row["state"]) for row in node.table("job")]


def sliced(phantom: Any, *which: slice) -> list[bytes]:
    files = phantom.files()
    return [file for each in which for file in files[each]]


# --- arriving ------------------------------------------------------------------------------------


def test_a_released_regular_series_is_complete_a_second_later(node: SimulatedNode) -> None:
    node.receive(ct().files())

    node.tick(0.2)
    before = node.series(ct()).state
    node.tick(1.0)

    assert before is SeriesState.RECEIVING
    assert (node.series(ct()).state, node.series(ct()).evidence) == ("complete", "release")
    assert jobs(node) == [(1, "queued")]


def test_the_end_of_an_association_is_noticed_though_nothing_arrives(node: SimulatedNode) -> None:
    association = node.receive(ct().files(), end=None)
    node.tick(0.2)
    node.node.door.index.closed(association, Ending.RELEASED)

    node.tick(0.2)
    node.tick(1.0)

    assert node.series(ct()).evidence == "release"


def test_a_series_that_grew_after_the_tick_began_is_not_judged_by_the_old_part(
    node: SimulatedNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rest came, and its association ended, while the tick was busy with another series."""
    association = node.receive(sliced(ct(), slice(5)), end=None)
    index = node.node.deps.index
    asked = index.associations_around

    def late_to_ask(uid: str) -> Any:
        monkeypatch.undo()
        node.bring(association, sliced(ct(), slice(5, 8)))
        node.node.door.index.closed(association, Ending.RELEASED)
        node.pass_time(30)
        return asked(uid)

    monkeypatch.setattr(index, "associations_around", late_to_ask)
    node.tick(10)
    node.tick(30)

    assert len(node.series(ct()).snapshot) == 8
    assert jobs(node) == [(1, "queued")]


def test_more_arrivals_than_one_question_answers_are_all_taken_before_judging(
    node: SimulatedNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.tick()
    index = node.node.deps.index
    asked = index.arrivals_after
    monkeypatch.setattr(index, "arrivals_after", lambda row: asked(row, limit=3))
    node.receive(ct().files())

    node.tick(90)

    assert len(node.series(ct()).snapshot) == 8


def test_a_corrected_name_counts_while_the_series_is_still_coming(node: SimulatedNode) -> None:
    renamed = ct(PatientName="Corrected^Name")
    association = node.receive(sliced(ct(), slice(5)), end=None)
    node.tick(0.2)
    node.bring(association, [*sliced(renamed, slice(5)), *sliced(renamed, slice(5, 8))])
    node.node.door.index.closed(association, Ending.RELEASED)

    node.tick(0.2)
    node.tick(1.0)

    assert node.series(ct()).patient_name == "Corrected^Name"
    assert set(node.series(ct()).snapshot.values()) == {1, 2}


def test_a_rule_that_names_the_class_of_a_non_image_is_asked_and_says_why_not(
    tmp_path: Path, worker: SharedWorker
) -> None:
    named = {"name": "segs", "when": {"SOPClassUID": "SegmentationStorage"}, "run": "probe"}
    by_modality = {"name": "modality", "when": {"Modality": "SEG"}, "run": "probe"}
    with simulated_node(tmp_path, worker, rules=[named, by_modality]) as node:
        node.receive([of_phantom(ct()).encoded()])

        node.settle()

        (only,) = node.table("match")
        assert (only["rule"], only["state"]) == ("segs", "parked")
        assert "probe takes images" in only["sentence"]
        assert jobs(node) == []


def test_a_series_shows_what_was_noticed_about_its_instances(node: SimulatedNode) -> None:
    node.receive([*ct().files(), *sliced(ct(PatientName="Corrected^Name"), slice(1))])

    node.settle()

    shown = SpoolCatalog(node.node.engine).get_series(ct().uid("series"))
    assert shown is not None
    assert [event["kind"] for event in shown["events"]] == ["amended"]
    assert "Corrected" not in shown["events"][0]["sentence"]


def test_nothing_is_watched_any_more_when_it_is_settled(node: SimulatedNode) -> None:
    node.receive(ct().files())
    node.receive(sliced(ct("short", ImagesInAcquisition=9), slice(8)))

    node.settle()
    node.tick(6000)

    assert node.series(ct("short")).state is SeriesState.HELD
    assert node.node.settler.watched_series == frozenset()


# --- what a person decides -----------------------------------------------------------------------


def test_a_short_count_is_held_and_freed_by_one_command(node: SimulatedNode) -> None:
    short = ct(ImagesInAcquisition=9)
    node.receive(short.files())
    node.settle()
    waiting = node.series(short)
    node.tick(5400)
    held = node.series(short)

    node.decide(short, "proceed")
    node.tick()

    assert (waiting.state, said(waiting)[:20]) == ("receiving", "8 of 9 (Images in Ac")
    assert held.state == "held"
    assert f"segnode series proceed {short.uid('series')}" in said(held)
    assert node.series(short).state == "complete"
    assert jobs(node) == [(1, "queued")]


def test_a_discarded_series_stays_so_whatever_comes_later(node: SimulatedNode) -> None:
    node.receive(sliced(ct(), slice(6)))
    node.settle()
    node.decide(ct(), "discard")
    node.tick()

    node.receive(sliced(ct(), slice(6, 8)))
    node.settle()
    node.start_again()
    node.settle()

    assert node.series(ct()).state is SeriesState.DISCARDED
    assert jobs(node) == [(1, "cancelled")]


def test_a_discarded_series_is_taken_up_again_by_rerun(node: SimulatedNode) -> None:
    node.receive(ct().files())
    node.settle()
    node.decide(ct(), "discard")
    node.tick()

    node.decide(ct(), "rerun")
    node.tick()

    assert node.series(ct()).state is SeriesState.COMPLETE
    assert jobs(node) == [(1, "queued")] or jobs(node) == [(2, "queued")]


def test_rerun_of_a_done_series_runs_nothing_twice(node: SimulatedNode) -> None:
    node.receive(ct().files())
    node.run()

    node.decide(ct(), "rerun")
    node.tick()
    node.node.work()

    assert node.match_states() == [(1, "superseded"), (2, "done")]
    assert [row["attempts"] for row in node.table("job")] == [1]
    assert [row["state"] for row in node.table("outbox")] == ["sent"]


def test_what_a_rule_that_is_gone_had_made_is_not_left_open_by_a_rerun(node: SimulatedNode) -> None:
    node.receive(ct().files())
    node.settle()
    node.reconfigure(rules=[{**CT_RULE, "name": "other", "when": {"Modality": "MR"}}])

    node.decide(ct(), "rerun")
    node.tick()

    assert node.match_states("ct") == [(1, "superseded")]
    assert node.match_states("") == [(2, "unmatched")]
    assert jobs(node) == [(1, "cancelled")]


# --- late images ---------------------------------------------------------------------------------


def test_a_late_image_opens_the_next_revision_and_cancels_what_is_queued(
    node: SimulatedNode,
) -> None:
    node.receive(sliced(ct(), slice(7)))
    node.settle()

    node.receive(sliced(ct(), slice(7, 8)))
    node.tick(0.1)
    reopened = jobs(node)
    node.settle()

    assert reopened == [(1, "cancelled")]
    assert jobs(node) == [(1, "cancelled"), (2, "queued")]
    assert len(node.series(ct()).snapshot) == 8


def test_images_that_come_to_a_held_series_are_counted_in_its_sentence(
    tmp_path: Path, worker: SharedWorker
) -> None:
    with simulated_node(tmp_path, worker, completion={"late": "hold"}) as node:
        node.receive(sliced(ct(), slice(6)))
        node.run()

        node.receive(sliced(ct(), slice(6, 7)))
        node.settle()
        one = node.series(ct())
        node.receive(sliced(ct(), slice(7, 8)))
        node.settle()
        two = node.series(ct())
        node.start_again()
        node.settle()

        assert (one.state, two.state, node.series(ct()).state) == ("held", "held", "held")
        assert said(one).startswith("1 image came after the result of revision 1")
        assert said(two).startswith("2 images came after")
        assert jobs(node) == [(1, "done")]

        node.decide(ct(), "rerun")
        node.run()

        assert jobs(node) == [(1, "done"), (2, "done")]
        assert node.segmentations()[1].SeriesDescription.endswith("revision 2")


def test_only_a_corrected_header_makes_no_revision(node: SimulatedNode) -> None:
    node.receive(ct().files())
    node.run()

    node.receive(ct(PatientName="Corrected^Name").files())
    node.settle()

    row = node.series(ct())
    assert (row.revision, row.patient_name) == (1, "Corrected^Name")
    assert set(row.snapshot.values()) == {2}
    assert len(node.table("job")) == 1


# --- trouble -------------------------------------------------------------------------------------


def test_a_series_that_cannot_be_judged_is_held_and_holds_up_no_other(
    node: SimulatedNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = ct("bad")
    real = settle_module.decide

    def decide(facts: Any, *rest: Any) -> Any:
        if facts.series.series_instance_uid == bad.uid("series"):
            raise ArithmeticError("patient data must not be told")
        return real(facts, *rest)

    monkeypatch.setattr(settle_module, "decide", decide)
    node.receive(bad.files())
    node.receive(ct("good").files())
    node.settle()
    held = node.series(bad)
    monkeypatch.undo()
    node.tick(61)

    assert node.series(ct("good")).state == "complete"
    assert (held.state, said(held)[:30]) == ("held", "ArithmeticError when it was ju")
    assert "patient data" not in said(held)
    assert node.series(bad).state == "complete"


def test_a_series_that_cannot_be_judged_stays_given_up(
    node: SimulatedNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise ArithmeticError

    monkeypatch.setattr(settle_module, "decide", fail)
    node.receive(sliced(ct(), slice(7)))
    node.settle()
    held = node.series(ct()).state
    node.receive(sliced(ct(), slice(7, 8)))
    node.decide(ct(), "discard")

    node.tick()
    node.tick(61)
    node.tick(61)

    assert (held, node.series(ct()).state) == ("held", "discarded")
    assert node.series(ct()).newest_row == 8


def test_a_study_that_cannot_be_judged_does_not_stop_the_tick(
    node: SimulatedNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = {
        "name": "pair", "run": "pair", "send": ["shelf"],
        "study": {"fixed": {"Modality": "CT"}, "moving": {"Modality": "MR"}},
    }  # fmt: skip
    node.reconfigure(rules=[CT_RULE, pair])
    node.receive(ct("a", study="bad").files())
    node.receive(ct("b", study="good").files())
    real = studies_module.match_study

    def match(at: Any, *rest: Any) -> Any:
        if at.study_instance_uid == ct("a", study="bad").uid("study"):
            raise ArithmeticError
        return real(at, *rest)

    monkeypatch.setattr(studies_module, "match_study", match)
    node.settle()
    node.settle()

    assert node.series(ct("b", study="good")).state == "complete"
    assert node.match_states("pair") == [(1, "receiving")]


@pytest.mark.parametrize("question", ["forced_series", "series", "arrivals_of"])
def test_a_database_that_fails_for_a_moment_makes_no_series_forgotten(
    node: SimulatedNode, monkeypatch: pytest.MonkeyPatch, question: str
) -> None:
    def locked(*_: object) -> None:
        raise OperationalError("locked", {}, Exception())

    node.tick()
    node.receive(ct("a").files())
    node.receive(ct("b").files())
    monkeypatch.setattr(node.node.deps.index, question, locked)
    with pytest.raises(OperationalError):
        node.tick()
    monkeypatch.undo()

    node.tick(90)

    assert {node.series(ct(name)).state for name in "ab"} == {"complete"}


# --- crashes and company -------------------------------------------------------------------------


def test_a_death_between_the_job_and_the_series_row_makes_no_second_job(
    node: SimulatedNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def die(point: str) -> None:
        if point == "job queued":
            raise Killed

    monkeypatch.setattr(settle_module, "crash_point", die)
    node.receive(ct().files())
    with pytest.raises(Killed):
        node.settle()
    monkeypatch.undo()
    assert jobs(node) == [(1, "queued")]

    node.start_again()
    node.settle()

    assert jobs(node) == [(1, "queued")]
    assert node.match_states() == [(1, "queued")]
    assert node.series(ct()).revision == 1


def test_an_image_that_came_while_nobody_watched_is_found_at_the_start(node: SimulatedNode) -> None:
    node.receive(sliced(ct(), slice(7)))
    node.run()
    node.receive(sliced(ct(), slice(7, 8)))

    node.start_again()
    node.settle()

    assert jobs(node) == [(1, "done"), (2, "queued")]


def test_two_route_processes_make_one_revision_and_one_job(node: SimulatedNode) -> None:
    other = node.another_settler()
    node.receive(sliced(ct(), slice(7)))

    for round_ in range(4):
        node.tick(0.6)
        other.tick(node.now)
        if round_ == 2:
            node.receive(sliced(ct(), slice(7, 8)))
    node.tick(70)
    other.tick(node.now)
    node.tick(1)
    other.tick(node.now)

    assert node.series(ct()).revision == 2
    assert jobs(node) == [(1, "cancelled"), (2, "queued")]
    assert node.match_states() == [(1, "superseded"), (2, "queued")]
