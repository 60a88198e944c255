"""People are told by a real node: each thing once, over a kill and an outage of the receiver."""

from __future__ import annotations

from pathlib import Path

from tests.notify.receivers import Hook, MailServer
from tests.support.peers import Node, Orthanc, free_port, store
from tests.support.phantoms import Phantom
from tests.support.waiting import wait_for

SICK = ("destination_sick", "pacs")


def test_a_sick_destination_is_told_once_over_a_kill_and_well_again(tmp_path: Path) -> None:
    hook, mail = Hook(status=503), MailServer()
    port = free_port()
    node = Node(
        tmp_path / "node",
        {
            "peers": {"pacs": {"ae_title": "PACS", "host": "127.0.0.1", "port": port}},
            "destinations": {"pacs": {"kind": "dimse", "peer": "pacs"}},
            "rules": [
                {"name": "ct", "when": {"Modality": "CT"}, "run": "ct_tissue", "send": ["pacs"]}
            ],
            "notify": {
                "chat": {
                    "kind": "webhook",
                    "url": hook.url,
                    "secret_env": "HOOK_SECRET",
                    "only": ["destination_sick"],
                },
                "mail": {
                    "kind": "smtp",
                    "host": "127.0.0.1",
                    "port": mail.port,
                    "security": "none",
                    "sender": "segnode@hospital.example",
                    "to": ["team@hospital.example"],
                    "only": ["destination_sick"],
                },
            },
        },
        environment={"HOOK_SECRET": "secret"},
    )
    with hook.listening(), mail.listening():
        try:
            node.start()
            store(node.dicom_port, Phantom().files(), calling="PACS")
            wait_for("a mail", lambda: mail.mails, 120)
            node.kill()
            hook.status = 200
            node.start()
            wait_for("the message that had to wait", lambda: hook.told, 120)
            modalities = {"node": ["SEGNODE", "127.0.0.1", node.dicom_port]}
            with Orthanc(tmp_path / "orthanc", "PACS", modalities, dicom_port=port) as pacs:
                node.cli("deliveries", "retry", "--destination", "pacs")
                wait_for("the result", pacs.segmentations, 120)
                wait_for("all clear", lambda: (*SICK, "over") in hook.told, 60)
                wait_for("all clear by mail", lambda: len(mail.by_id) == 2, 60)
                trial = node.cli("doctor", "--notify")
        finally:
            node.kill()

    assert [told for told in hook.told if told[0] != "test"] == [(*SICK, "began"), (*SICK, "over")]
    assert "notify chat: told" in trial.stdout
    # one that was told in the moment of the kill came twice, as the same message
    subjects = [str(message["Subject"]) for message in mail.by_id.values()]
    assert sum("over: " in subject for subject in subjects) == 1
    assert sum("this is a test" in subject for subject in subjects) == 1
