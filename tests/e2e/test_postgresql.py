"""The whole road on PostgreSQL: the same code, the same answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.support.evil_peers import StoreScp
from tests.support.peers import Node, storescu
from tests.support.phantoms import Phantom
from tests.support.waiting import wait_for


def test_the_whole_road_runs_on_postgresql(
    empty_postgresql: Callable[[], str], tmp_path: Path
) -> None:
    files = Phantom(study="pg", series="pg", spacing_mm=(12.0, 5.0, 6.0)).write(tmp_path / "ct")
    with StoreScp(ae_title="STORESCU").listening() as scp:
        node = Node(
            tmp_path / "node",
            {
                "database": empty_postgresql(),
                "peers": {"PACS": {"ae_title": "STORESCU", "host": "127.0.0.1", "port": scp.port}},
                "rules": [{"name": "ct", "when": {"Modality": "CT"}, "run": "ct_tissue"}],
            },
        ).start()
        try:
            assert storescu(node.dicom_port, "SEGNODE", *files) == 0

            wait_for("the SEG", lambda: len(scp.objects) == 1)
            wait_for(
                "its row",
                lambda: [r["state"] for r in node.api("/deliveries")["items"]] == ["sent"],
            )
            (job,) = node.api("/jobs")["items"]
            assert (job["state"], job["attempts"]) == ("done", 1)
            assert node.stop() == 0
        finally:
            if node.process is not None:
                node.kill()
