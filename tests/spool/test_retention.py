"""What retention takes from the index, and what it has to leave for the numbers of rows to tell."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import select, update

from node.database.engine import column_of, writing
from node.domain.received import Loss
from node.spool.losses import Losses, loss_values, write_losses
from node.spool.retention import (
    forget_associations,
    forget_events,
    forget_losses,
    forget_quarantine,
    sweep_quarantine,
)
from node.spool.tables import association, event, loss, quarantine
from tests.support.instances import (
    ORIGIN,
    SERIES_UID,
    Node,
    announced,
    ct_slice,
    data_set_bytes,
    opened_node,
)

LATER = 1e12
OF_NOBODY = replace(ORIGIN, association_id="")


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with opened_node(tmp_path) as opened:
        yield opened


def lose(node: Node, image: str, series: str = SERIES_UID, lost_at: float = 1.0) -> None:
    one = Loss(
        series_instance_uid=series,
        image=image,
        sop_instance_uid="",
        association_id="a",
        dimse_status=0xC000,
        reason="broken",
    )
    with writing(node.engine) as connection:
        write_losses(connection, [loss_values(one, lost_at)])


def test_an_image_that_is_lost_again_is_a_newer_row(node: Node) -> None:
    losses = Losses(node.engine)
    lose(node, "part 1")
    row, _ = losses.after(0)

    lose(node, "part 1", lost_at=2.0)

    assert losses.after(row) == (row + 1, frozenset([SERIES_UID]))


def test_old_losses_go_where_no_file_of_their_series_is_left_but_the_newest_row(
    node: Node,
) -> None:
    node.store(ct_slice())
    node.index.flush()
    lose(node, "of a kept series")
    lose(node, "1", series="1.2.3")
    lose(node, "2", series="1.2.4", lost_at=5.0)
    lose(node, "newest", series="1.2.5")

    gone = sum(forget_losses(node.engine, 4.0))

    assert gone == 1
    left = column_of(node.engine, select(loss.c.image).order_by(loss.c.id))
    assert left == ["of a kept series", "2", "newest"]


def test_events_go_by_age_unless_their_series_is_there(node: Node) -> None:
    node.index.record_event("x", "of no series")
    node.index.record_event("x", "of a series without a row", series_instance_uid="1.2.3")
    node.index.flush()

    early = sum(forget_events(node.engine, 0.0))
    late = sum(forget_events(node.engine, LATER))

    assert (early, late) == (0, 2)
    assert column_of(node.engine, select(event.c.id)) == []


def test_associations_go_when_they_ended_and_nothing_names_them(node: Node) -> None:
    named, lost, still_open, over = (node.index.opened(OF_NOBODY) for _ in range(4))
    arrival = node.ingest.begin(replace(ORIGIN, association_id=named), announced(ct_slice()))
    arrival.write(data_set_bytes(ct_slice()))
    arrival.finish()
    node.index.flush()
    with writing(node.engine) as connection:
        ended = association.c.id.in_([named, lost, over])
        connection.execute(update(association).where(ended).values(closed_at=2.0))
    lose(node, "part 1")
    with writing(node.engine) as connection:
        connection.execute(update(loss).values(association_id=lost))

    early = sum(forget_associations(node.engine, 1.0))
    late = sum(forget_associations(node.engine, LATER))

    assert (early, late) == (0, 1)
    left = set(column_of(node.engine, select(association.c.id)))
    assert left == {named, lost, still_open}


def test_rows_of_quarantine_go_when_they_were_decided_about_but_the_newest(node: Node) -> None:
    folder = node.spool.quarantine.folder
    for number, state in enumerate(("kept", "discarded", "accepted", "accepted")):
        (folder / f"{number}.dcm").touch()
        values = {"file_name": f"{number}.dcm", "size_bytes": 1, "dimse_status": 1}
        values |= {"reason": "", "transport": "dimse", "received_at": 1.0, "state": state}
        with writing(node.engine) as connection:
            connection.execute(quarantine.insert().values(**values))

    early = sum(forget_quarantine(node.engine, folder, 0.5))
    late = sum(forget_quarantine(node.engine, folder, 2.0))

    assert (early, late) == (0, 2)
    assert column_of(node.engine, select(quarantine.c.state).order_by(quarantine.c.id)) == [
        "kept",
        "accepted",
    ]
    assert [path.name for path in sorted(folder.iterdir())] == ["0.dcm", "3.dcm"]
    assert sweep_quarantine(node.engine, folder, 2.0) == 1
