"""TLS both ways with a real Orthanc: images come by TLS, the SEG goes back by TLS, into their study."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.support.certificates import Authority
from tests.support.evil_peers import StoreScp
from tests.support.peers import Node, Orthanc, echo, free_port
from tests.support.phantoms import Phantom
from tests.support.waiting import wait_for


def ct() -> Phantom:
    return Phantom(shape=(24, 40, 56), spacing_mm=(8.25, 5.5, 6.0), study="tls", series="tls")


def test_orthanc_sends_and_gets_results_over_tls(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    own, theirs = authority.sign("node.example"), authority.sign("orthanc.example")
    tls_port = free_port()
    orthanc = Orthanc(
        tmp_path / "orthanc",
        options={
            "DicomTlsEnabled": True,
            "DicomTlsCertificate": str(theirs.certificate),
            "DicomTlsPrivateKey": str(theirs.key),
            "DicomTlsTrustedCertificates": str(authority.file),
            "DicomTlsRemoteCertificateRequired": True,
            "DicomAlwaysAllowStore": True,
        },
        modalities={
            "segnode": {
                "AET": "SEGNODE", "Host": "127.0.0.1", "Port": tls_port, "UseDicomTls": True,
            }  # type: ignore[dict-item]
        },
    )  # fmt: skip
    shown = {"certificate": str(own.certificate), "key": str(own.key)}
    node = Node(
        tmp_path / "node",
        {
            "dimse": {
                "tls": {**shown, "ca": str(authority.file), "client": "required", "port": tls_port}
            },
            "peers": {
                "orthanc": {
                    "ae_title": orthanc.ae_title, "host": "127.0.0.1", "port": orthanc.dicom_port,
                    "tls": {**shown, "ca": str(authority.file), "name": "orthanc.example"},
                },
            },
            "rules": [
                {"name": "ct", "when": {"Modality": "CT"}, "run": "ct_tissue", "send": ["sender"]}
            ],
        },
    )  # fmt: skip
    ct().write(tmp_path / "ct")
    with orthanc, node:
        for path in sorted((tmp_path / "ct").iterdir()):
            orthanc.post("/instances", path.read_bytes())
        (study,) = orthanc.get("/studies")
        orthanc.post("/modalities/segnode/store", [study])

        segmentations = wait_for("a SEG in Orthanc", orthanc.segmentations)
        (delivery,) = wait_for(
            "the end of the delivery",
            lambda: [d for d in node.api("/deliveries")["items"] if d["state"] == "sent"],
        )
        doctor = json.loads(node.cli("doctor", "--json", check=False).stdout)

    assert len(segmentations) == 1
    assert delivery["destination"] == "peer:orthanc"
    found: dict[str, Any] = {check["name"]: check for check in doctor}
    assert found["destination peer:orthanc"]["health"] == "good"
    assert "CN=node.example" in found["dimse.tls"]["sentence"]
    assert found["dimse.tls"]["health"] == "warning"  # it ends in ten days
    assert echo(node.dicom_port) != 0


def test_a_port_that_speaks_tls_alone_is_tried_by_hand(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    own = authority.sign("127.0.0.1")
    web = {"certificate": str(own.certificate), "key": str(own.key)}
    rules = [{"name": "ct", "when": {"Modality": "CT"}, "run": "ct_tissue", "send": []}]
    node = Node(tmp_path / "node", {"dimse": {"tls": web}, "rules": rules})
    ct().write(tmp_path / "ct")
    to = ("send", str(tmp_path / "ct"), f"127.0.0.1:{node.dicom_port}", "--aec", "SEGNODE")
    with node:
        plain = node.cli(*to, check=False)
        sent = node.cli(*to, "--tls-ca", str(authority.file))
        doctor = node.cli("doctor", "--send", check=False)
        (series,) = wait_for("the series", lambda: node.api("/series")["items"])

    assert plain.returncode == 1
    assert "24 stored" in sent.stderr + sent.stdout
    assert series["instances"] == 24
    assert "the port speaks TLS alone" in doctor.stdout


def test_files_of_tls_that_cannot_be_used_stop_the_start_with_their_key(tmp_path: Path) -> None:
    node = Node(
        tmp_path / "node",
        {
            "dimse": {"tls": {"certificate": "no.crt", "key": "no.key"}},
            "rules": [{"name": "ct", "when": {"Modality": "CT"}, "run": "ct_tissue", "send": []}],
        },
    )
    node.start(wait=False)
    assert node.process is not None
    try:
        assert node.process.wait(60) != 0
    finally:
        node.process = None

    assert "dimse.tls.certificate" in node.log()
    assert "Traceback" not in node.log()
    with StoreScp(port=node.dicom_port).listening():  # the port is free
        pass
