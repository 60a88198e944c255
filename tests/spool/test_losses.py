"""Losses that name no series: whom they count against, at the same cost however many they are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from node.database.engine import writing
from node.domain.received import Loss
from node.spool import losses as losses_module
from node.spool.losses import Losses, loss_values, write_losses
from tests.support.instances import (
    ORIGIN,
    SERIES_UID,
    Node,
    announced,
    ct_slice,
    data_set_bytes,
    opened_node,
)
from tests.support.statements import recording

CALLER = replace(ORIGIN, association_id="")


def test_losses_without_a_series_cost_the_same_however_many(tmp_path: Path) -> None:
    with opened_node(tmp_path) as node:
        _store_in(node, node.index.opened(CALLER))
        losses, beside = Losses(node.engine), node.index.opened(CALLER)
        asked = []
        for number in (1, 100):
            row = losses.newest_row()
            _lose(node, beside, number)
            with recording() as recorded:
                _, concerned = losses.after(row)
                found = losses.of_series(SERIES_UID)
            asked.append(len(recorded.statements))
            assert concerned == {SERIES_UID}
            assert len(found) == number
    assert asked[0] == asked[1]


def test_no_more_losses_are_read_than_people_are_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(losses_module, "COUNTED", 50)
    with opened_node(tmp_path) as node:
        _store_in(node, node.index.opened(CALLER))
        _lose(node, node.index.opened(CALLER), 120)

        found = Losses(node.engine).of_series(SERIES_UID)

    assert [loss.image for loss in found] == [f"part {number}" for number in range(50)]


def test_a_whole_series_of_a_caller_without_a_name_asks_for_no_losses_beside_it(
    tmp_path: Path,
) -> None:
    """Every series of an address would read what anybody behind it lost, at every look."""
    nobody = replace(CALLER, calling_ae_title="", http_user="")
    with opened_node(tmp_path) as node:
        _store_in(node, node.index.opened(nobody))
        _lose(node, node.index.opened(nobody), 100)
        with recording() as recorded:
            found = Losses(node.engine).of_series(SERIES_UID)

    assert list(found) == []
    beside = [each for each in recorded.statements if "loss.lost_at >=" in each.text]
    assert beside == []


def test_of_one_image_that_is_lost_twice_at_once_the_later_row_counts(tmp_path: Path) -> None:
    with opened_node(tmp_path) as node:
        first, second = (_loss("a", "part 1"), replace(_loss("a", "part 1"), reason="other"))
        with writing(node.engine) as connection:
            write_losses(
                connection, [loss_values(first, 1.0), loss_values(_loss("a", "part 2"), 1.0)]
            )
            write_losses(connection, [loss_values(first, 2.0), loss_values(second, 3.0)])
        kept = {(row["image"], row["reason"], row["lost_at"]) for row in node.rows("loss")}
    assert kept == {("part 2", "broken", 1.0), ("part 1", "other", 3.0)}


def _store_in(node: Node, association_id: str) -> None:
    dataset = ct_slice()
    origin = replace(ORIGIN, association_id=association_id)
    arrival = node.ingest.begin(origin, announced(dataset))
    arrival.write(data_set_bytes(dataset))
    arrival.finish()
    node.index.flush()


def _lose(node: Node, association_id: str, number: int) -> None:
    lost_at = node.index.now()
    with writing(node.engine) as connection:
        rows = [loss_values(_loss(association_id, f"part {n}"), lost_at) for n in range(number)]
        write_losses(connection, rows)


def _loss(association_id: str, image: str) -> Loss:
    return Loss(
        series_instance_uid="",
        image=image,
        sop_instance_uid="",
        association_id=association_id,
        dimse_status=0xC000,
        reason="broken",
    )
