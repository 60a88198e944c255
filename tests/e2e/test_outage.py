"""Peers that are down or misbehave: each ends in its class, the others flow, nothing is lost (A8)."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import CTImageStorage

from tests.support.evil_peers import (
    StoreScp,
    StowServer,
    failed_answer,
    hanging_up,
    raw_server,
    rejecting,
    stored_answer,
)
from tests.support.peers import Node, Orthanc, free_port, store
from tests.support.phantoms import Phantom
from tests.support.waiting import wait_for

HERE = "127.0.0.1"


def silent(connection: socket.socket) -> None:
    """Takes what comes until the other side gives up."""
    while connection.recv(65536):
        pass


MODELS = str(Path(__file__).parent.parent / "support" / "models_probe")
SENT, WARNED, WAITING, BLOCKED = "sent", "warned", "waiting", "blocked"

# Storage SCPs by their answer to each C-STORE, and the state of the delivery
STATUSES = {
    "success": (0x0000, SENT),
    "coerced": (0xB000, WARNED),
    "elements_discarded": (0xB006, WARNED),
    "duplicate": (0x0111, WARNED),
    "out_of_resources": (0xA700, WAITING),
    "processing_failure": (0x0110, WAITING),
    "resource_limitation": (0x0213, WAITING),
    "cannot_understand": (0xC000, WAITING),  # five of them block: a matter of minutes
    "unknown_status": (0xFFFF, WAITING),
    "not_supported": (0x0122, BLOCKED),
    "not_authorized": (0x0124, BLOCKED),
    "other_class": (0xA900, BLOCKED),
}
# what else a peer does, and a piece of the sentence that the operator reads
MISDEEDS = {
    "rejects_now": (rejecting(2), WAITING, "rejected"),
    "rejects": (rejecting(1), BLOCKED, "rejected the association for good"),
    "hangs_up": (hanging_up, WAITING, "aborted"),
    "says_nothing": (silent, WAITING, ""),
}
STORE_MISDEEDS = {
    "takes_no_seg": (
        StoreScp(sop_classes=(CTImageStorage,)),
        BLOCKED,
        "no presentation context",
    ),
    "aborts": (StoreScp(misdeed="abort"), WAITING, "aborted"),
    "drops": (StoreScp(misdeed="drop"), WAITING, "aborted"),
}
STOW = {
    "stow_stored": (StowServer(status=200, body=stored_answer), SENT),
    "stow_failed": (StowServer(status=202, body=lambda u: failed_answer(u, 0xA700)), WAITING),
    "stow_conflict": (StowServer(status=409, body=lambda u: failed_answer(u, 0x0124)), BLOCKED),
    "stow_unavailable": (StowServer(status=503), WAITING),
    "stow_forbidden": (StowServer(status=403), BLOCKED),
    "stow_elsewhere": (StowServer(status=302, headers={"Location": "/"}), BLOCKED),
}
HEALTHY = ("success", "stow_stored", "shelf")
STATES = {
    **{name: state for name, (_, state) in STATUSES.items()},
    **{name: state for name, (_, state, _) in MISDEEDS.items()},
    **{name: state for name, (_, state, _) in STORE_MISDEEDS.items()},
    **{name: state for name, (_, state) in STOW.items()},
    "recovers": SENT,
    "nobody_listens": WAITING,
    "shelf": SENT,
}


def ct(name: str) -> Phantom:
    return Phantom(shape=(24, 40, 56), spacing_mm=(8.25, 5.5, 6.0), study=name)


def node_with(folder: Path, destinations: dict[str, Any], ports: dict[str, int]) -> Node:
    """A node that sends the result of every CT everywhere."""
    sender = {"SENDER": {"ae_title": "STORESCU", "host": HERE}}
    peers = {
        name: {"ae_title": f"EVIL{number}", "host": HERE, "port": port}
        for number, (name, port) in enumerate(ports.items())
    }
    dimse = {name: {"kind": "dimse", "peer": name, "negotiate_timeout_s": 2} for name in ports}
    everywhere = [*dimse, *destinations]
    return Node(
        folder / "node",
        config={
            "peers": {**sender, **peers},
            "destinations": {**dimse, **destinations},
            "models_dirs": [MODELS],
            "rules": [
                {"name": "ct", "when": {"Modality": "CT"}, "run": "probe", "send": everywhere}
            ],
        },
    )


def deliveries(node: Node, **where: str) -> list[dict[str, Any]]:
    query = "&".join(f"{name}={value}" for name, value in where.items())
    return list(node.api(f"/deliveries?limit=1000&{query}")["items"])


# --- a PACS that is down --------------------------------------------------------------------------


def test_a_pacs_that_was_down_for_the_whole_run_gets_everything_once(tmp_path: Path) -> None:
    orthanc = Orthanc(tmp_path / "orthanc")
    counter = StoreScp(port=free_port())
    ports = {"orthanc": orthanc.dicom_port, "counter": counter.port}
    phantoms = [ct(f"outage {number}") for number in range(3)]

    with node_with(tmp_path, {}, ports) as node:
        for phantom in phantoms:
            store(node.dicom_port, phantom.files())
        wait_for(
            "a failed attempt for each",
            lambda: [row["attempts"] > 0 for row in deliveries(node, state=WAITING)] == [True] * 6,
            60,
        )
        assert {row["last_status"] for row in deliveries(node)} == {None}
        # what is not delivered yet survives a restart of the node as well
        assert node.stop() == 0
        node.start()

        with orthanc, counter.listening():
            wait_for("all of them", lambda: len(deliveries(node, state=SENT)) == 6)

            results = {row["sop_instance_uid"] for row in deliveries(node)}
            assert len(results) == 3
            assert sorted(uid for uid, _ in counter.stored) == sorted(results)
            held = orthanc.instances(Modality="SEG")
            assert sorted(i["MainDicomTags"]["SOPInstanceUID"] for i in held) == sorted(results)


# --- peers that misbehave -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A node of many destinations, after it tried to send a result to each."""
    folder = tmp_path_factory.mktemp("outage")
    (folder / "shelf").mkdir()
    recovering = StoreScp(answer=lambda stored: 0xA700 if stored < 1 else 0x0000)
    with ExitStack() as stack:
        ports = {
            name: stack.enter_context(StoreScp(answer=status).listening()).port
            for name, (status, _) in STATUSES.items()
        }
        for name, (scp, *_) in STORE_MISDEEDS.items():
            ports[name] = stack.enter_context(scp.listening()).port
        for name, (talk, *_) in MISDEEDS.items():
            ports[name] = stack.enter_context(raw_server(talk))
        ports["recovers"] = stack.enter_context(recovering.listening()).port
        ports["nobody_listens"] = free_port()
        others: dict[str, Any] = {
            name: {"kind": "dicomweb", "url": stack.enter_context(server.listening()).url}
            for name, (server, _) in STOW.items()
        }
        others["shelf"] = {"kind": "folder", "path": str(folder / "shelf")}
        node = stack.enter_context(node_with(folder, others, ports))

        store(node.dicom_port, ct("first").files())
        wait_for("an end for each", lambda: all_ended(node, 1))
        yield node


def all_ended(node: Node, results: int) -> bool:
    """Whether each delivery was tried to its end at least once."""
    rows = deliveries(node)
    return (
        len(rows) == results * len(STATES)
        and all(row["attempts"] and row["state"] != "sending" for row in rows)
        and {row["state"] for row in rows if row["destination"] == "recovers"} == {SENT}
    )


@pytest.mark.parametrize("destination", STATES)
def test_each_peer_ends_in_its_class(destination: str, ended: Node) -> None:
    (row,) = deliveries(ended, destination=destination)

    assert wait_for("its state", lambda: settled(ended, destination)) == STATES[destination]
    if destination in STATUSES:
        assert row["last_status"] == STATUSES[destination][0]
    if destination in MISDEEDS:
        assert MISDEEDS[destination][2] in row["sentence"]
    if destination in STORE_MISDEEDS:
        assert STORE_MISDEEDS[destination][2] in row["sentence"]


def settled(node: Node, destination: str) -> str:
    """The state of its delivery while nobody is sending."""
    (row,) = deliveries(node, destination=destination)
    return "" if row["state"] == "sending" else str(row["state"])


def test_the_status_counts_what_is_blocked(ended: Node) -> None:
    blocked = [name for name, state in STATES.items() if state == BLOCKED]

    status = ended.cli("status", "--json", check=False)

    assert f"{len(blocked)} results cannot be delivered" in status.stdout


def test_a_blocked_delivery_is_sent_again_when_a_person_says_so(ended: Node) -> None:
    (before,) = deliveries(ended, destination="takes_no_seg")
    scp = STORE_MISDEEDS["takes_no_seg"][0]
    associations = scp.associations

    ended.api(f"/deliveries/{before['id']}/retry", method="POST")

    wait_for("another association", lambda: scp.associations == associations + 1)
    wait_for("its end", lambda: settled(ended, "takes_no_seg") == BLOCKED)


def test_sick_peers_do_not_hold_up_the_others(ended: Node) -> None:
    second = ct("second")
    store(ended.dicom_port, second.files())

    def arrived() -> bool:
        rows = [
            row
            for row in deliveries(ended, state=SENT)
            if row["study_instance_uid"] == second.uid("study")
        ]
        return {row["destination"] for row in rows} >= set(HEALTHY)

    wait_for("the second result at every healthy peer", arrived)
    result = next(
        row for row in deliveries(ended) if row["study_instance_uid"] == second.uid("study")
    )
    made_at = result["created_at"]
    times = [
        row["sent_at"] - made_at
        for row in deliveries(ended, state=SENT)
        if row["result_id"] == result["result_id"] and row["destination"] in HEALTHY
    ]
    assert max(times) < 5.0
