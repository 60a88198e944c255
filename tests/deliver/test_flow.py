"""Outbox and destinations together: every peer ends in its class while others flow (A6, A8, F72)."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from pydicom.uid import CTImageStorage
from sqlalchemy import Engine, select

from node.database.engine import open_engine, reading
from node.deliver.destination import unknown_destination
from node.deliver.dimse import DimseDestination
from node.deliver.folder import FolderDestination
from node.domain.delivery import DeliverableObject
from node.domain.job import job_key
from node.jobs.leases import JobLeases
from node.jobs.outbox import Outbox
from node.jobs.results import ResultStore
from node.jobs.store import JobStore
from node.jobs.tables import metadata, outbox
from node.jobs.values import JobRequest, ResultFile
from tests.support.evil_peers import StoreScp, raw_server, rejecting
from tests.support.peers import free_port
from tests.support.waiting import wait_for

LEASE_S = 600.0
HOUR_S = 3600.0


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/segnode.sqlite"


@pytest.fixture
def engine(database_url: str):
    engine = open_engine(database_url)
    metadata.create_all(engine)
    yield engine
    engine.dispose()


def put(engine: Engine, deliverable: DeliverableObject, destinations: list[str]) -> None:
    """One finished job with this object."""
    series = f"{deliverable.sop_instance_uid}.5"
    request = JobRequest(
        rule="chest",
        study_instance_uid="1.2",
        series_key=series,
        revision=1,
        job_key=job_key([series], "model", {}),
        model="ct_tissue",
        model_digest="model",
        inputs={},
        destinations=tuple(destinations),
        config_digest="c",
    )
    JobStore(engine).enqueue(request, now=0.0)
    leased = JobLeases(engine).lease("w", LEASE_S, now=0.0)
    file = ResultFile(
        form="seg",
        file_name=deliverable.path,
        size_bytes=deliverable.size_bytes,
        sha256="0" * 64,
        sop_instance_uid=deliverable.sop_instance_uid,
        sop_class_uid=deliverable.sop_class_uid,
        series_instance_uid=deliverable.series_instance_uid,
        study_instance_uid=deliverable.study_instance_uid,
    )
    ResultStore(engine).put_results(leased.id, "w", [file], forms=["seg"], now=0.0)


def deliver(engine: Engine, destinations: dict, objects: dict, now: float) -> int:
    """Send everything that is due at this moment; returns how many attempts that took."""
    box, attempts = Outbox(engine), 0
    while leased := box.lease_delivery("sender", LEASE_S, now=now):
        attempts += 1
        destination = destinations.get(leased.destination)
        if destination is None:
            outcome = unknown_destination(leased.destination)
        else:
            outcome = destination.send(objects[leased.result.file.sop_instance_uid])
        box.record(leased.id, "sender", outcome, now=now)
    return attempts


def states(engine: Engine) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    with reading(engine) as connection:
        for row in connection.execute(select(outbox).order_by(outbox.c.id)):
            found.setdefault(row.destination, []).append(row.state)
    return found


def test_a_pacs_that_was_down_gets_everything_once(engine, make_object, dimse) -> None:
    made = [make_object(n) for n in range(1, 6)]
    objects = {each.sop_instance_uid: each for each in made}
    port = free_port()
    for each in made:
        put(engine, each, ["pacs"])
    for hour in range(3):
        deliver(engine, {"pacs": dimse(port)}, objects, now=hour * HOUR_S)
    assert states(engine) == {"pacs": ["waiting"] * 5}

    with StoreScp(port=port).listening() as pacs:
        deliver(engine, {"pacs": dimse(port)}, objects, now=4 * HOUR_S)

    assert states(engine) == {"pacs": ["sent"] * 5}
    assert sorted(uid for uid, _ in pacs.stored) == sorted(objects)


def test_every_evil_peer_ends_in_its_class_and_the_others_flow(
    engine, make_object, dimse, tmp_path
) -> None:
    made = [make_object(n) for n in (1, 2)]
    objects = {each.sop_instance_uid: each for each in made}
    (tmp_path / "shelf").mkdir()
    with ExitStack() as stack:
        peers = {
            "good": StoreScp(),
            "coerces": StoreScp(answer=0xB000),
            "full": StoreScp(answer=0xA700),
            "confused": StoreScp(answer=0xC000),
            "forbids": StoreScp(answer=0x0124),
            "no_seg": StoreScp(sop_classes=(CTImageStorage,)),
            "aborts": StoreScp(misdeed="abort"),
            "drops": StoreScp(misdeed="drop"),
            "recovers": StoreScp(answer=lambda stored: 0xA700 if stored < 2 else 0x0000),
        }
        destinations = {
            name: dimse(stack.enter_context(peer.listening()).port) for name, peer in peers.items()
        }
        destinations["rejects_now"] = dimse(stack.enter_context(raw_server(rejecting(2))))
        destinations["rejects"] = dimse(stack.enter_context(raw_server(rejecting(1))))
        destinations["shelf"] = FolderDestination(name="shelf", path=tmp_path / "shelf")
        for each in made:
            put(engine, each, [*destinations, "forgotten"])

        for hour in range(6):
            deliver(engine, destinations, objects, now=hour * HOUR_S)

    assert states(engine) == {
        "good": ["sent"] * 2,
        "coerces": ["warned"] * 2,
        "full": ["waiting"] * 2,
        "confused": ["blocked"] * 2,
        "forbids": ["blocked"] * 2,
        "no_seg": ["blocked"] * 2,
        "aborts": ["waiting"] * 2,
        "drops": ["waiting"] * 2,
        "recovers": ["sent"] * 2,
        "rejects_now": ["waiting"] * 2,
        "rejects": ["blocked"] * 2,
        "shelf": ["sent"] * 2,
        "forgotten": ["blocked"] * 2,
    }
    assert len(peers["good"].stored) == 2
    assert len(peers["forbids"].stored) == 2
    assert len(peers["confused"].stored) == 10


def send_one(database_url: str, destination: DimseDestination, sent: DeliverableObject) -> None:
    engine = open_engine(database_url)
    box = Outbox(engine)
    leased = box.lease_delivery("doomed", LEASE_S, now=0.0)
    box.record(leased.id, "doomed", destination.send(sent), now=0.0)


def test_a_sender_killed_before_the_answer_leaves_one_object_at_the_pacs(
    engine, database_url, make_object, dimse
) -> None:
    deliverable = make_object()
    put(engine, deliverable, ["pacs"])
    with StoreScp().listening() as pacs:
        arrived = threading.Event()
        pacs.answer = lambda _: arrived.set() or time.sleep(1) or 0x0000
        doomed = multiprocessing.get_context("spawn").Process(
            target=send_one, args=(database_url, dimse(pacs.port), deliverable)
        )
        doomed.start()
        assert arrived.wait(30)
        os.kill(doomed.pid, signal.SIGKILL)
        doomed.join()
        doomed.close()
        wait_for("the object", lambda: pacs.stored)
        pacs.answer = 0x0000

        early = deliver(engine, {}, {}, now=LEASE_S - 1)
        deliver(
            engine,
            {"pacs": dimse(pacs.port)},
            {deliverable.sop_instance_uid: deliverable},
            now=LEASE_S + 1,
        )

    assert early == 0
    assert states(engine) == {"pacs": ["sent"]}
    assert len(pacs.stored) == 2
    assert pacs.objects == {deliverable.sop_instance_uid}
