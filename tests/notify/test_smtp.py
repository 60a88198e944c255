"""Mail as a mail server gets it."""

from __future__ import annotations

import ssl
from dataclasses import replace
from pathlib import Path

import pytest

from node.domain.notice import Course
from node.domain.settings import Secret, SettingsInvalid
from node.notify.smtp import Mail
from tests.notify.receivers import MailServer
from tests.notify.test_webhook import NOTICE
from tests.support.certificates import Authority
from tests.support.peers import free_port


def mail(port: int, **others: object) -> Mail:
    given = {
        "name": "mail",
        "host": "127.0.0.1",
        "port": port,
        "security": "none",
        "sender": "segnode@hospital.example",
        "to": ("team@hospital.example", "night@hospital.example"),
        "timeout_s": 5.0,
        **others,
    }
    return Mail(**given)  # type: ignore[arg-type]


def test_several_notices_are_one_mail() -> None:
    over = replace(NOTICE, id="n2", code="destination_sick", subject="pacs", course=Course.OVER)
    with MailServer().listening() as server:
        told = mail(server.port).send([NOTICE, over])

    assert told.is_told
    (message,) = server.mails
    assert message["Subject"] == "[segnode] 1 GB free: new instances are refused (and 1 more)"
    assert message["Auto-Submitted"] == "auto-generated"
    assert server.recipients == [["team@hospital.example", "night@hospital.example"]]
    text = message.get_payload(decode=True).decode()
    assert "What to do: make room" in text
    assert "over: 1 GB free" in text
    assert "(destination_sick pacs, " in text


def test_the_same_notices_are_the_same_message_at_every_attempt() -> None:
    sender = mail(25)

    assert sender.message([NOTICE])["Message-ID"] == sender.message([NOTICE])["Message-ID"]


def test_a_password_goes_over_starttls_and_to_a_server_that_is_known_alone(
    tmp_path: Path,
) -> None:
    authority = Authority(tmp_path)
    signed = authority.sign()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(signed.certificate, signed.key)
    right = Secret(source="env:P", value="right")
    with MailServer(tls=context).listening() as server:
        known = {"security": "starttls", "user": "segnode", "ca": str(authority.file)}
        told = mail(server.port, **known, password=right).send([NOTICE])
        wrong = mail(server.port, **known, password=replace(right, value="wrong")).send([NOTICE])
        unknown = mail(server.port, **{**known, "ca": ""}, password=right).send([NOTICE])

    assert told.is_told
    assert wrong.sentence == "the mail server answers 535"
    assert unknown.sentence == "the mail server cannot be used (SSLCertVerificationError)"
    assert len(server.mails) == 1


def test_a_server_that_refuses_or_is_not_there_is_an_answer() -> None:
    with MailServer(refuses="451 not now").listening() as server:
        refused = mail(server.port).send([NOTICE])
    gone = mail(free_port()).send([NOTICE])

    assert refused.sentence == "the mail server answers 451"
    assert gone.sentence == "the mail server cannot be used (ConnectionRefusedError)"


@pytest.mark.parametrize(
    ("wrong", "at"),
    [
        ({"to": ()}, "to"),
        ({"sender": "Somebody <a@b.example>"}, "sender"),
        ({"to": ("a@b.example\r\nBcc: c@d.example",)}, "to.0"),
        ({"user": "segnode", "security": "tls"}, "user"),
        ({"user": "a", "password": Secret(source="env:P", value="b")}, "security"),
    ],
)
def test_settings_that_cannot_work_are_refused(wrong: dict[str, object], at: str) -> None:
    with pytest.raises(SettingsInvalid) as refused:
        mail(25, **wrong)

    assert [place for place, _ in refused.value.mistakes] == [at]
