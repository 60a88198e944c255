"""Notifiers of kind ``webhook``: one POST of JSON per notice, signed.

Source: Standard Webhooks 1.0.0 (``webhook-id``, ``webhook-timestamp``, ``webhook-signature``; secrets ``whsec_``)
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal
from urllib.parse import urlsplit

import requests

from node import __version__
from node.domain.notice import Notice, Told
from node.domain.settings import Mistake, Secret, Timeout
from node.domain.tls import ClientTls
from node.notify.notifier import Notifier
from node.tls import why_not_called

_PREFIX = "whsec_"
_MOST_ASKED_S = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Webhook(Notifier):
    """An HTTP endpoint.

    Args:
        secret: What the messages are signed with: ``whsec_`` and base64, or any text.
        tls: Authorities to trust instead of the public ones, and a certificate of this node.
        timeout_s: To connect, and again between two bytes of the answer.
    """

    kind: Literal["webhook"] = "webhook"
    url: str
    secret: Secret
    tls: ClientTls | None = None
    timeout_s: Timeout = 10.0

    def _own_mistakes(self) -> Iterator[Mistake]:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username:
            yield "url", "takes http:// or https:// and a host, without a password"
        if self.tls is not None and parts.scheme != "https":
            yield "tls", "of use with a URL that begins with https: only"
        if self.secret.value.startswith(_PREFIX) and not _key(self.secret.value):
            yield "secret", f"begins with {_PREFIX} and goes on with what is no base64"

    def send(self, notices: Sequence[Notice]) -> Told:
        (notice,) = notices
        if why := why_not_called(self.url):
            return Told(is_told=False, sentence=why)
        body = message_of(notice)
        sent_at = str(int(time.time()))
        headers = {
            "Content-Type": "application/json",
            "User-Agent": f"segnode/{__version__}",
            "webhook-id": notice.id,
            "webhook-timestamp": sent_at,
            "webhook-signature": signature(self.secret.value, notice.id, sent_at, body),
        }
        try:
            with requests.Session() as session:
                session.trust_env = False
                if self.tls is not None:
                    session.verify = self.tls.ca or True
                    if self.tls.certificate:
                        session.cert = (self.tls.certificate, self.tls.key)
                answer = session.post(
                    self.url,
                    data=body,
                    headers=headers,
                    timeout=self.timeout_s,
                    allow_redirects=False,
                    stream=True,  # nobody reads what it says
                )
                answer.close()
        except requests.RequestException as error:
            return Told(is_told=False, sentence=f"it does not answer ({type(error).__name__})")
        if 200 <= answer.status_code < 300:
            return Told(is_told=True)
        return Told(
            is_told=False,
            sentence=f"it answers HTTP {answer.status_code}",
            retry_after_s=_seconds(answer.headers.get("Retry-After", "")),
        )


def message_of(notice: Notice) -> bytes:
    """The body of a request: type, time and data of one notice."""
    at = datetime.fromtimestamp(notice.at, UTC).isoformat(timespec="milliseconds")
    kind = f"segnode.{notice.code}.{notice.course}"
    content = {"type": kind, "timestamp": at, "data": notice.to_json()}
    return json.dumps(content, ensure_ascii=False).encode()


def signature(secret: str, message_id: str, timestamp: str, body: bytes) -> str:
    """What the receiver computes as well: HMAC-SHA256 of id, time and body."""
    key = _key(secret) if secret.startswith(_PREFIX) else secret.encode()
    signed = f"{message_id}.{timestamp}.".encode() + body
    digest = hmac.new(key, signed, hashlib.sha256).digest()
    return f"v1,{base64.b64encode(digest).decode()}"


def _key(secret: str) -> bytes:
    try:
        return base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
    except binascii.Error:
        return b""


def _seconds(retry_after: str) -> float | None:
    return min(float(retry_after), _MOST_ASKED_S) if retry_after.isdigit() else None
