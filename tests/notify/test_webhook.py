"""Webhooks as a receiver sees them: signed, one message per notice, answered in every way."""

from __future__ import annotations

import base64
import hashlib
import hmac
from dataclasses import replace

import pytest

from node.domain.notice import Course, Notice
from node.domain.settings import Secret, SettingsInvalid
from node.notify.webhook import Webhook, message_of, signature
from tests.notify.receivers import Hook
from tests.support.peers import free_port

KEY = b"0123456789abcdef0123456789abcdef"
SECRET = Secret(source="env:HOOK", value=f"whsec_{base64.b64encode(KEY).decode()}")
NOTICE = Notice(
    id="n1.7",
    code="disk",
    course=Course.BEGAN,
    at=1_700_000_000.25,
    sentence="1 GB free: new instances are refused",
    do="make room",
    facts={"told": "1 GB free"},
)


def webhook(url: str, **others: object) -> Webhook:
    return Webhook(name="chat", url=url, secret=SECRET, timeout_s=5.0, **others)  # type: ignore[arg-type]


def test_the_signature_is_that_of_the_standard() -> None:
    # the example of the specification's reference library
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    body = b'{"test": 2432232314}'

    signed = signature(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", body)

    assert signed == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_a_receiver_can_tell_that_a_message_is_ours_and_whole() -> None:
    with Hook().listening() as hook:
        told = webhook(hook.url).send([NOTICE])

    assert told.is_told
    ((head, body),) = hook.requests
    signed = b".".join([head["webhook-id"].encode(), head["webhook-timestamp"].encode(), body])
    expected = base64.b64encode(hmac.new(KEY, signed, hashlib.sha256).digest()).decode()
    assert head["webhook-signature"] == f"v1,{expected}"
    assert head["webhook-id"] == "n1.7"
    assert head["content-type"] == "application/json"
    assert hook.messages == [
        {
            "type": "segnode.disk.began",
            "timestamp": "2023-11-14T22:13:20.250+00:00",
            "data": {
                "code": "disk",
                "subject": "",
                "course": "began",
                "facts": {"told": "1 GB free"},
                "sentence": "1 GB free: new instances are refused",
                "do": "make room",
            },
        }
    ]


@pytest.mark.parametrize(
    ("status", "headers", "asked_s"),
    [(503, {"Retry-After": "120"}, 120.0), (500, {}, None), (302, {"Location": "/"}, None)],
)
def test_what_is_not_taken_is_told_why(
    status: int, headers: dict[str, str], asked_s: float | None
) -> None:
    with Hook(status=status, answered=headers).listening() as hook:
        told = webhook(hook.url).send([NOTICE])

    assert not told.is_told
    assert told.sentence == f"it answers HTTP {status}"
    assert told.retry_after_s == asked_s


def test_nobody_there_is_an_answer_too() -> None:
    told = webhook(f"http://127.0.0.1:{free_port()}/").send([NOTICE])

    assert not told.is_told
    assert told.sentence == "it does not answer (ConnectionError)"


def test_link_local_addresses_are_not_called() -> None:
    told = webhook("http://169.254.169.254/latest").send([NOTICE])

    assert "link-local" in told.sentence


def test_the_message_depends_on_the_notice_alone() -> None:
    assert message_of(NOTICE) == message_of(replace(NOTICE, id="another"))


@pytest.mark.parametrize(
    ("wrong", "at"),
    [
        ({"url": "ftp://there/"}, "url"),
        ({"url": "https://user:password@there/"}, "url"),
        ({"secret": Secret(source="env:A", value="whsec_?")}, "secret"),
        ({"only": ("disk", "no_such_code")}, "only.1"),
    ],
)
def test_settings_that_cannot_work_are_refused(wrong: dict[str, object], at: str) -> None:
    given = {"name": "chat", "url": "https://there/", "secret": SECRET, **wrong}

    with pytest.raises(SettingsInvalid) as refused:
        Webhook(**given)  # type: ignore[arg-type]

    assert [place for place, _ in refused.value.mistakes] == [at]
