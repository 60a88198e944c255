"""Retention: what may go goes, what anything unfinished needs stays, and a full disk recovers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from node.domain.errors import InstanceRejected
from node.pipeline.retain import Retention
from node.spool.files import SpaceGuard
from tests.support.node_in_process import SharedWorker
from tests.support.simulated_node import CT_RULE, SimulatedNode, ct, said, simulated_node

DAY_S = 86_400.0
HOUR_S = 3_600.0
AT_ONCE = {"done": 0, "unmatched": 0, "parked": 0, "quarantine": 0, "results": 0}


@pytest.fixture
def node(tmp_path: Path, worker: SharedWorker) -> Iterator[SimulatedNode]:
    storage = {"reserve_gb": 0, "max_used_percent": 100, "keep_days": AT_ONCE}
    with simulated_node(tmp_path, worker, storage=storage) as simulated:
        yield simulated


def sweep(node: SimulatedNode) -> None:
    """A sweep at a time when what was needed is looked at again."""
    node.pass_time(HOUR_S)
    Retention(node.node.plan, node.node.engine).sweep(node.now)


def images(node: SimulatedNode) -> int:
    return len(list((node.node.data_dir / "spool" / "instances").rglob("*.dcm")))


def results(node: SimulatedNode) -> int:
    return len([path for path in node.node.plan.results_folder.rglob("*") if path.is_file()])


def test_nothing_goes_before_its_result_is_delivered(node: SimulatedNode) -> None:
    node.receive(ct().files())
    sweep(node)
    arriving = images(node)
    node.settle()
    sweep(node)
    queued = images(node)
    node.node.work()
    sweep(node)
    undelivered = results(node)

    node.deliver()
    sweep(node)

    assert (arriving, queued) == (8, 8)
    assert undelivered == 1  # the labels are not what is delivered
    assert len(node.delivered()) == 1
    assert (images(node), results(node)) == (0, 0)
    assert list(node.node.plan.results_folder.iterdir()) == []


def test_an_image_that_comes_while_a_sweep_runs_is_left_alone(
    node: SimulatedNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = ct(slices=9).files()
    node.receive(files[:8])
    node.run()
    judged = Retention._sweep_studies

    def slowly(self: Retention, *of: Any) -> int:
        carry_out = self._carry_out

        def after_an_arrival(study: str, now: float) -> Any:
            node.receive(files[8:])
            node.node.door.index.flush()
            return carry_out(study, now)

        monkeypatch.setattr(self, "_carry_out", after_an_arrival)
        return judged(self, *of)

    monkeypatch.setattr(Retention, "_sweep_studies", slowly)
    sweep(node)

    assert images(node) == 9


def test_each_fate_has_its_days(tmp_path: Path, worker: SharedWorker) -> None:
    keep = {"done": 7, "unmatched": 3, "parked": 30, "quarantine": 30, "results": 30}
    storage = {"reserve_gb": 0, "max_used_percent": 100, "keep_days": keep}
    with simulated_node(tmp_path, worker, storage=storage) as node:
        node.receive(ct("done").files())
        node.receive(ct("unmatched", Modality="MR").files())
        node.receive(ct("parked", slices=2).files())
        node.receive(ct("held", slices=5, ImagesInAcquisition=9).files())
        node.run()
        node.tick(6000)
        left = []
        for days in (2.5, 1, 4, 24):
            node.pass_time(days * DAY_S)
            sweep(node)
            left.append(images(node))

        assert left == [8 + 8 + 2 + 5, 8 + 2 + 5, 2 + 5, 0]


def test_a_resend_of_what_was_deleted_is_recognised_and_starts_nothing(
    node: SimulatedNode,
) -> None:
    node.receive(ct().files())
    node.run()
    sweep(node)
    node.pass_time(60)

    node.receive(ct().files())
    node.settle()

    assert images(node) == 0
    assert len(node.table("job")) == 1


def test_a_late_image_after_deletion_is_held_and_rerun_takes_all_of_it_again(
    node: SimulatedNode,
) -> None:
    files = ct(slices=9).files()
    node.receive(files[:8])
    node.run()
    sweep(node)
    node.pass_time(60)
    node.receive(files[8:])
    node.settle()
    held = node.series(ct(slices=9))

    node.decide(ct(slices=9), "rerun")
    node.tick()
    asked_for = node.series(ct(slices=9))
    node.pass_time(60)
    node.receive(files)
    node.run()

    assert held.state == "held"
    assert "were deleted by retention" in said(held)
    assert f"segnode series rerun {held.series_instance_uid}" in said(held)
    assert said(asked_for) == "its images were deleted by retention: send the series again"
    assert len(node.series(ct(slices=9)).snapshot) == 9
    assert [row["state"] for row in node.table("job")] == ["done", "done"]
    assert len(node.delivered()) == 2


def test_a_decision_about_a_series_without_any_file_says_what_to_do(node: SimulatedNode) -> None:
    node.receive(ct().files())
    node.run()
    sweep(node)

    node.decide(ct(), "rerun")
    node.tick()
    row = node.series(ct())
    node.decide(ct(), "discard")
    node.tick()

    assert (row.state, row.forced) == ("held", None)
    assert "send the series again" in said(row)
    assert node.series(ct()).state == "discarded"


def test_what_another_rule_still_needs_stays(node: SimulatedNode) -> None:
    later = {
        "name": "later",
        "study": {"fixed": {"Modality": "CT"}, "moving": {"Modality": "MR"}},
        "run": "pair",
        "send": ["shelf"],
    }
    node.reconfigure(rules=[CT_RULE, later], storage={"keep_days": AT_ONCE})
    node.receive(ct().files())
    node.run()

    sweep(node)

    assert node.match_states("ct") == [(1, "done")]
    assert images(node) == 8


def test_a_short_disk_is_swept_at_once_and_then_takes_instances_again(
    node: SimulatedNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    retention = Retention(node.node.plan, node.node.engine)
    node.receive(ct().files())
    node.run()
    retention.sweep(node.now)
    node.receive(ct("second").files())
    node.tick(0.1)
    node.tick(1.1)
    node.node.work()
    node.deliver()
    retention.sweep(node.now)
    not_yet_due = images(node)

    def full_while_images_lie_there(_: object) -> str:
        return "the disk is full" if images(node) else ""

    monkeypatch.setattr(SpaceGuard, "_look", full_while_images_lie_there)
    node.node.door.spool.forget_space()
    retention._space.forget()
    with pytest.raises(InstanceRejected, match="A700"):
        node.receive(ct("third").files())
    retention.sweep(node.now)
    node.node.door.spool.forget_space()
    node.receive(ct("third").files()[:1])

    assert not_yet_due == 8
    assert images(node) == 1


def test_nothing_is_forgotten_of_images_that_cannot_be_deleted_now(node: SimulatedNode) -> None:
    """The spool's folder is away: once it is back, what was due is due again."""
    node.receive(ct().files())
    node.run()
    node.pass_time(HOUR_S)
    retention = Retention(node.node.plan, node.node.engine)
    spool = node.node.data_dir / "spool"
    spool.rename(node.node.data_dir / "away")
    retention.sweep(node.now)
    (node.node.data_dir / "away").rename(spool)
    kept = images(node)
    retention.sweep(node.now)

    assert (kept, images(node)) == (8, 0)


def test_what_a_runners_programs_printed_goes_with_the_days_of_results(
    tmp_path: Path, worker: SharedWorker
) -> None:
    with simulated_node(tmp_path, worker, storage={"keep_days": {"results": 30}}) as node:
        old, young = (node.node.plan.results_folder / name / "run.log" for name in ("1", "2"))
        for path, days in ((old, 31), (young, 29)):
            path.parent.mkdir()
            path.write_text("a header may stand here")
            os.utime(path, (node.now - days * DAY_S,) * 2)

        sweep(node)

        assert not old.parent.exists()
        assert young.exists()


def test_a_held_series_that_is_sent_again_after_its_deletion_is_taken_as_a_whole(
    node: SimulatedNode,
) -> None:
    files = ct(slices=9, ImagesInAcquisition=9).files()
    node.receive(files[:8])
    node.settle()
    node.tick(6000)
    node.pass_time(DAY_S)
    sweep(node)
    gone = images(node)

    node.receive(files)
    node.run()

    assert gone == 0
    assert images(node) == 9
    assert len(node.series(ct(slices=9)).snapshot) == 9


def test_other_days_count_at_once_when_they_are_reloaded(
    tmp_path: Path, worker: SharedWorker
) -> None:
    with simulated_node(tmp_path, worker) as node:
        retention = Retention(node.node.plan, node.node.engine)
        node.receive(ct().files())
        node.run()
        node.pass_time(HOUR_S)
        retention.sweep(node.now)
        before = images(node)

        node.reconfigure(storage={"keep_days": AT_ONCE})
        retention.use(node.node.plan)
        node.pass_time(1)
        retention.sweep(node.now)

        assert (before, images(node)) == (8, 0)


def test_after_its_history_a_series_is_new(tmp_path: Path, worker: SharedWorker) -> None:
    keep = {**AT_ONCE, "history": 10}
    with simulated_node(tmp_path, worker, storage={"keep_days": keep}) as node:
        node.receive(ct().files())
        node.run()
        sweep(node)
        node.pass_time(9 * DAY_S)
        sweep(node)
        known = len(node.table("job"))
        node.pass_time(1.5 * DAY_S)
        sweep(node)
        node.receive(ct().files()[:1])  # in the day before: kept, and held for those that are gone
        node.settle()
        held = node.series(ct())
        node.decide(ct(), "discard")
        node.tick()
        node.receive(ct(study="2").files())  # what came last stays
        node.run()
        node.pass_time(DAY_S)
        for _ in range(3):
            sweep(node)
            node.pass_time(11 * DAY_S)
        left = [row["study_instance_uid"] for row in node.table("job")]
        markers = node.node.data_dir / "spool" / "series"
        marked = [path for path in markers.rglob("*") if path.is_file()]

        node.receive(ct().files())
        node.run()

        assert (known, held.state) == (1, "held")
        assert left == [ct(study="2").uid("study")]
        assert marked == []
        assert node.series(ct()).revision == 1
        assert len(node.table("job")) == 2


def test_what_was_left_in_the_folder_of_a_job_goes_with_the_days_of_results(
    node: SimulatedNode,
) -> None:
    node.receive(ct().files())
    node.run()
    folder = node.node.plan.results_folder
    (made,) = (path for path in folder.glob("*/*") if path.name.startswith("seg"))
    left = made.with_name("left by who was killed")
    left.touch()
    for path in (made, left):
        os.utime(path, (node.now - 31 * DAY_S,) * 2)

    node.reconfigure(storage={"keep_days": {**AT_ONCE, "results": 30}})
    sweep(node)

    assert made.exists()
    assert not left.exists()
