"""Whoever is refused is counted, whatever process refused it, and nobody is named."""

from __future__ import annotations

import re
from pathlib import Path

import requests

from tests.support import raw_dimse as raw
from tests.support.http_server import MULTIPART, body_of
from tests.support.peers import Node
from tests.support.raw_dimse import RawAssociation

RULES = [{"name": "none", "when": {"slices": {"min": 900}}, "run": "ct_tissue"}]


def metrics(node: Node) -> dict[str, int]:
    text = requests.get(f"{node.url}/metrics", timeout=10).text
    return {name: int(number) for name, number in re.findall(r"^(segnode\S+) (\d+)$", text, re.M)}


def test_refusals_of_all_processes_are_counted_and_survive_a_kill(tmp_path: Path) -> None:
    node = Node(tmp_path / "node", {"rules": RULES})
    node.start()
    try:
        for _ in range(3):
            with RawAssociation(node.dicom_port) as stranger:
                refused = stranger.request(called=b"NOBODY", calling=b"EVIL-NAME")
                assert refused.kind == raw.ASSOCIATE_RJ
        with RawAssociation(node.dicom_port) as client:
            client.request()
            assert raw.status(client.store(b"no data set", "1.2.3")) == 0xC000
        answer = requests.post(
            f"{node.url}/dicom-web/studies",
            data=body_of(b"no DICOM file"),
            headers={"Content-Type": MULTIPART},
            timeout=10,
        )
        assert answer.status_code == 409
        node.kill()
        node.start()

        found = metrics(node)
        text = node.cli("status").stdout
    finally:
        node.kill()

    refused_by = 'segnode_associations_refused_total{result="1",source="1",reason="7"}'
    assert found[refused_by] == 3
    assert found['segnode_instances_refused_total{transport="dimse",status="C000"}'] == 1
    assert found['segnode_instances_refused_total{transport="stow",status="C000"}'] == 1
    assert found['segnode_http_refused_total{status="409"}'] == 1
    assert "EVIL" not in str(found)
    assert re.search(r"associations refused +1/1/7: 3", text)
