"""What complete series lead to: jobs that are shared, sets by role, revisions of sets."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from node.spool.tables import instance
from tests.support.node_in_process import SharedWorker
from tests.support.phantoms import Phantom
from tests.support.simulated_node import CT_RULE, SimulatedNode, ct, simulated_node

PAIR: dict[str, Any] = {
    "name": "pair",
    "study": {
        "fixed": {"SeriesDescription": "fixed"},
        "moving": {"SeriesDescription": "moving"},
    },
    "run": "pair",
    "send": ["shelf"],
}


@pytest.fixture
def node(tmp_path: Path, worker: SharedWorker) -> Iterator[SimulatedNode]:
    """A node with one rule that takes two series of a study."""
    with simulated_node(tmp_path, worker, rules=[PAIR]) as simulated:
        yield simulated


def fixed(series: str = "fixed", slices: int = 8, **attributes: object) -> Phantom:
    return ct(series, slices=slices, SeriesDescription="fixed", **attributes)


def moving(**attributes: object) -> Phantom:
    return ct("moving", SeriesDescription="moving", **attributes)


def the_match(node: SimulatedNode) -> dict[str, Any]:
    return [row for row in node.table("match") if row["rule"] == "pair"][-1]


def job_states(node: SimulatedNode) -> list[str]:
    return [row["state"] for row in node.table("job")]


# --- single series -------------------------------------------------------------------------------


def test_two_rules_with_one_model_share_a_run_and_both_are_served(
    tmp_path: Path, worker: SharedWorker
) -> None:
    (tmp_path / "second").mkdir()
    shelves = {
        name: {"kind": "folder", "path": str(tmp_path / name), "layout": "{SOPInstanceUID}.dcm"}
        for name in ("shelf", "second")
    }
    rules = [CT_RULE, {**CT_RULE, "name": "again", "send": ["second"], "priority": "urgent"}]
    with simulated_node(tmp_path, worker, rules=rules, destinations=shelves) as node:
        node.receive(ct().files())

        node.run()

        (job,) = node.table("job")
        assert (job["attempts"], job["priority"]) == (1, 0)
        assert len(list((tmp_path / "shelf").iterdir())) == 1
        assert len(list((tmp_path / "second").iterdir())) == 1
        assert node.match_states("again") == node.match_states("ct") == [(1, "done")]


def test_other_parameters_are_another_run(tmp_path: Path, worker: SharedWorker) -> None:
    rules = [CT_RULE, {**CT_RULE, "name": "otsu", "parameters": {"method": "otsu"}}]
    with simulated_node(tmp_path, worker, rules=rules) as node:
        node.receive(ct().files())

        node.settle()

        assert len(node.table("job")) == 2


def test_a_destination_added_later_makes_a_delivery_and_no_run(
    tmp_path: Path, worker: SharedWorker
) -> None:
    (tmp_path / "later").mkdir()
    with simulated_node(tmp_path, worker) as node:
        node.receive(ct().files())
        node.run()
        shelf = node.node.plan.config.destinations
        assert list(shelf) == ["shelf"]
        later = {"kind": "folder", "path": str(tmp_path / "later"), "layout": "x.dcm"}
        given = {"kind": "folder", "path": str(node.shelf), "layout": "{SOPInstanceUID}.dcm"}
        node.reconfigure(
            destinations={"shelf": given, "later": later},
            rules=[{**CT_RULE, "send": ["shelf", "later"]}],
        )

        node.decide(ct(), "rerun")
        node.run()

        assert [row["attempts"] for row in node.table("job")] == [1]
        assert [(row["destination"], row["attempts"]) for row in node.table("outbox")] == [
            ("shelf", 1),
            ("later", 1),
        ]
        assert (tmp_path / "later" / "x.dcm").is_file()


def test_a_corrected_name_costs_no_run_and_is_in_later_results_byte_for_byte(
    tmp_path: Path, worker: SharedWorker
) -> None:
    renamed = ct(slices=9, PatientName="Néw^Name")
    with simulated_node(tmp_path, worker) as node:
        files = ct(slices=9).files()
        node.receive(files[:8])
        node.run()
        node.receive(renamed.files()[:8])
        node.run()
        after_the_name = len(node.table("job"))

        node.receive(renamed.files()[8:])
        node.run()

        assert after_the_name == 1
        first, second = node.segmentations()
        assert first.PatientName == "Phantöm^Torso"
        assert bytes(second.get_item("PatientName").value) == "Néw^Name ".encode()[:10].ljust(10)
        assert second.SeriesDescription.endswith("revision 2")
        assert [row["state"] for row in node.table("result") if row["form"] == "seg"] == [
            "superseded",
            "current",
        ]


def test_an_unmatched_series_says_why_for_every_rule(node: SimulatedNode) -> None:
    node.reconfigure(rules=[PAIR, {**CT_RULE, "when": {"Modality": "MR"}}])
    node.receive(ct("neither", SeriesDescription="neither").files())

    node.settle()

    (row,) = node.table("match")
    assert (row["rule"], row["state"]) == ("", "unmatched")
    assert "rule ct: does not fit: Modality" in row["sentence"]
    assert "rule pair: role fixed: does not fit: SeriesDescription" in row["sentence"]


def test_a_series_that_the_model_cannot_take_is_parked_with_every_reason(
    tmp_path: Path, worker: SharedWorker
) -> None:
    with simulated_node(tmp_path, worker) as node:
        two = ct("two", slices=2)
        node.receive(two.files())

        node.settle()

        (row,) = node.table("match")
        assert row["state"] == "parked"
        assert "slices" in row["sentence"]
        assert row["sentence"].endswith(f"segnode series rerun {two.uid('series')}")


# --- sets ----------------------------------------------------------------------------------------


def test_a_set_waits_for_its_roles_and_runs_once_when_they_are_there(node: SimulatedNode) -> None:
    node.receive(fixed().files())
    node.settle()
    waiting = the_match(node)

    node.receive(moving().files())
    node.run()
    node.start_again()
    node.settle()

    assert (waiting["state"], waiting["sentence"]) == (
        "receiving",
        "no series yet for role moving: send it",
    )
    assert node.match_states("pair") == [(1, "done")]
    assert job_states(node) == ["done"]
    (segmentation,) = node.segmentations()
    sources = segmentation.ReferencedSeriesSequence[0]
    assert sources.SeriesInstanceUID == fixed().uid("series")
    assert "revision" not in segmentation.SeriesDescription


@pytest.mark.parametrize("starts_again", [False, True])
def test_a_set_that_lacks_a_role_is_held_after_the_wait(
    node: SimulatedNode, starts_again: bool
) -> None:
    node.receive(fixed().files())
    node.settle()
    if starts_again:
        node.start_again()

    node.tick(3500)
    before = the_match(node)["state"]
    node.tick(100)
    held = the_match(node)
    node.receive(moving().files())
    node.settle()

    assert (before, held["state"]) == ("receiving", "held")
    assert held["sentence"] == "no series yet for role moving: send it"
    assert job_states(node) == ["queued"]


def test_two_that_fit_a_role_park_the_set_until_one_is_discarded(node: SimulatedNode) -> None:
    rival = fixed("rival")
    for phantom in (fixed(), rival, moving()):
        node.receive(phantom.files())
    node.settle()
    parked = the_match(node)

    node.decide(rival, "discard")
    node.tick()

    assert parked["state"] == "parked"
    assert parked["sentence"].startswith("two series fit role fixed: ")
    assert "segnode series discard" in parked["sentence"]
    # the tick takes series one by one: a choice that was too early is cancelled by the next
    assert [state for state in job_states(node) if state != "cancelled"] == ["queued"]
    assert the_match(node)["roles"]["fixed"] == fixed().uid("series")


def test_a_rival_that_comes_before_the_result_left_stops_the_first_choice(
    node: SimulatedNode,
) -> None:
    rival = fixed("rival")
    node.receive(fixed().files())
    node.receive(moving().files())
    node.settle()
    node.receive(rival.files())
    node.settle()
    rivals = (job_states(node), node.match_states("pair"))

    node.decide(rival, "discard")
    node.run()

    assert rivals == (["cancelled"], [(1, "superseded"), (2, "parked")])
    assert job_states(node) == ["done"]
    assert node.match_states("pair") == [(1, "superseded"), (2, "done")]
    assert len(node.delivered()) == 1


def test_of_series_that_settle_together_a_set_is_made_once(node: SimulatedNode) -> None:
    for order, names in enumerate(permutations(("fixed", "better", "moving"))):
        for name in names:
            role = "moving" if name == "moving" else "fixed"
            slices = 12 if name == "better" else 8
            uid = f"{name} {order}"
            node.receive(ct(uid, study=f"{order}", slices=slices, SeriesDescription=role).files())

    node.settle()

    assert node.match_states("pair") == [(1, "queued")] * 6
    assert job_states(node) == ["queued"] * 6
    assert {len(job["inputs"]["fixed"]["instances"]) for job in node.table("job")} == {12}


def test_a_better_candidate_that_comes_later_is_a_revision(node: SimulatedNode) -> None:
    node.receive(fixed().files())
    node.receive(moving().files())
    node.run()

    node.receive(fixed("better", slices=12).files())
    node.run()

    first, second = node.segmentations()
    assert node.match_states("pair") == [(1, "superseded"), (2, "done")]
    assert second.SeriesDescription.endswith("revision 2")
    assert node.table("job")[1]["replaces"] == first.SOPInstanceUID
    assert node.delivered() == {first.SOPInstanceUID, second.SOPInstanceUID}


def test_a_late_image_in_one_member_stops_the_old_set_and_makes_the_next(
    node: SimulatedNode,
) -> None:
    node.receive(fixed().files()[:7])
    node.receive(moving().files())
    node.settle()

    node.receive(fixed().files()[7:])
    node.tick(0.1)
    reopened = job_states(node)
    node.run()

    assert reopened == ["cancelled"]
    assert job_states(node) == ["cancelled", "done"]
    assert node.match_states("pair") == [(1, "superseded"), (2, "done")]


def test_a_delivered_set_is_held_when_one_member_changes_and_late_is_hold(
    tmp_path: Path, worker: SharedWorker
) -> None:
    completion = {"late": "hold"}
    with simulated_node(tmp_path, worker, rules=[PAIR], completion=completion) as node:
        node.receive(fixed().files()[:7])
        node.receive(moving().files())
        node.run()

        node.receive(fixed().files()[7:])
        node.settle()

        assert node.series(fixed()).state == "held"
        assert job_states(node) == ["done"]


def test_a_discarded_member_takes_its_set_with_it(node: SimulatedNode) -> None:
    node.receive(fixed().files())
    node.receive(moving().files())
    node.settle()

    node.decide(moving(), "discard")
    node.tick()

    assert job_states(node) == ["cancelled"]
    assert node.match_states("pair") == [(1, "superseded"), (2, "receiving")]


def test_the_same_series_in_other_roles_are_another_job(node: SimulatedNode) -> None:
    node.receive(fixed().files())
    node.receive(moving().files())
    node.settle()
    swapped = {"fixed": PAIR["study"]["moving"], "moving": PAIR["study"]["fixed"]}
    node.reconfigure(rules=[{**PAIR, "study": swapped}])

    node.decide(fixed(), "rerun")
    node.settle()

    assert job_states(node) == ["cancelled", "queued"]


def test_a_set_of_which_a_member_was_deleted_is_parked_and_says_so(node: SimulatedNode) -> None:
    node.receive(fixed().files())
    node.settle()
    with node.node.engine.begin() as connection:
        connection.execute(update(instance).values(file_deleted_at=node.now))
    node.receive(moving().files())

    node.settle()

    assert node.series(moving()).state == "complete"
    assert the_match(node)["state"] == "parked"
    assert fixed().uid("series") in the_match(node)["sentence"]
    assert job_states(node) == []


def test_two_patients_never_make_one_set(node: SimulatedNode) -> None:
    node.receive(fixed().files())
    node.receive(moving(PatientID="SOMEBODY-ELSE").files())

    node.settle()

    assert the_match(node)["state"] == "parked"
    assert "differ in Patient ID" in the_match(node)["sentence"]
    assert "SOMEBODY" not in the_match(node)["sentence"]


def test_a_death_before_the_series_row_loses_no_set(
    node: SimulatedNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other member was settled before: its row is what the next process finds."""
    node.receive(fixed().files())
    node.settle()
    node.receive(moving().files())
    index = node.node.deps.index

    def die(*_: object, **__: object) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(index, "put_series", die)
    with pytest.raises(KeyboardInterrupt):
        node.tick(2)
    monkeypatch.undo()

    node.start_again()
    node.settle()

    assert job_states(node) == ["queued"]
    assert node.match_states("pair") == [(1, "queued")]
