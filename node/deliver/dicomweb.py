"""Results by STOW-RS, as user agent.

Why not ``dicomweb_client.DICOMwebClient.store_instances``: it encodes every data set again and holds
the whole message in memory, follows redirects, repeats requests on its own, drops the body of a 409
and knows no total time limit. One streamed POST is what an outbox needs.

Source: PS3.18 10.5 (store transaction), 8.6.1 (multipart), Annex I (response).
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import IO

import requests
from requests.auth import AuthBase, HTTPBasicAuth

from node.deliver.classes import AssociationEnd, classify_association, result_file_gone
from node.deliver.stow_answer import judge_answer
from node.domain.delivery import DeliverableObject, DeliveryClass, Outcome

_ANSWER_MAX_BYTES = 4 << 20
_CHUNK_BYTES = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Basic:
    """User and password (RFC 7617)."""

    user: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """A bearer token (RFC 6750)."""

    token: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class DicomwebDestination:
    """A STOW-RS origin server.

    Args:
        url: Base of the DICOMweb service; ``/studies`` is appended.
        ca_file: Certificates to trust instead of the public ones. Verification is never off.
        answer_timeout_s: From the last byte sent to the last byte of the answer.
    """

    name: str
    url: str
    auth: Basic | Token | None = None
    ca_file: Path | None = None
    connect_timeout_s: float = 10.0
    answer_timeout_s: float = 120.0

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise ValueError(f"{self.name}: the URL must begin with http:// or https://")

    def send(self, deliverable: DeliverableObject) -> Outcome:
        """Store one object with one request."""
        path = Path(deliverable.path)
        if not path.is_file():
            return result_file_gone()
        with requests.Session() as session, path.open("rb") as file:
            # neither proxies nor .netrc of whoever started the node: the configuration is all
            session.trust_env = False
            session.verify = str(self.ca_file) if self.ca_file else True
            return self._post(session, _Multipart(file), deliverable.sop_instance_uid)

    def _post(
        self, session: requests.Session, message: _Multipart, sop_instance_uid: str
    ) -> Outcome:
        try:
            with session.post(
                f"{self.url.rstrip('/')}/studies",
                data=message,
                headers={
                    "Content-Type": message.content_type,
                    "Accept": "application/dicom+json",
                },
                auth=_authorization(self.auth),
                timeout=(self.connect_timeout_s, self.answer_timeout_s),
                allow_redirects=False,
                stream=True,
            ) as response:
                body = _read_answer(response, time.monotonic() + self.answer_timeout_s)
        except requests.exceptions.SSLError:
            # a certificate does not mend itself, but an operator of the peer may mend it
            return _sick("the destination's certificate cannot be verified")
        except (requests.exceptions.ConnectTimeout, requests.exceptions.ConnectionError):
            return _sick("no connection to the destination, or it was lost")
        except requests.exceptions.Timeout:
            return classify_association(AssociationEnd.TIMED_OUT)
        except requests.exceptions.RequestException as error:
            return _sick(f"the HTTP exchange broke off ({type(error).__name__})")
        return judge_answer(response.status_code, body, sop_instance_uid, _retry_after_s(response))


class _Multipart:
    """One part, streamed between its boundaries; its length is known beforehand."""

    def __init__(self, file: IO[bytes]) -> None:
        boundary = uuid.uuid4().hex
        self.content_type = (
            f'multipart/related; type="application/dicom"; boundary="{boundary}"'  # PS3.18 8.6.1
        )
        self._file = file
        self._head = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
        self._tail = f"\r\n--{boundary}--\r\n".encode()
        self._size_bytes = file.seek(0, 2)

    def __len__(self) -> int:
        return len(self._head) + self._size_bytes + len(self._tail)

    def __iter__(self) -> Iterator[bytes]:
        yield self._head
        self._file.seek(0)
        while chunk := self._file.read(_CHUNK_BYTES):
            yield chunk
        yield self._tail


class _Bearer(AuthBase):
    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


def _authorization(auth: Basic | Token | None) -> AuthBase | None:
    if isinstance(auth, Basic):
        return HTTPBasicAuth(auth.user, auth.password)
    return _Bearer(auth.token) if isinstance(auth, Token) else None


def _read_answer(response: requests.Response, deadline: float) -> bytes:
    """The body, bounded in size and time: a peer that drips must not hold a sender."""
    body = bytearray()
    for chunk in response.iter_content(_CHUNK_BYTES):
        body += chunk
        if len(body) > _ANSWER_MAX_BYTES or time.monotonic() > deadline:
            raise requests.exceptions.ReadTimeout
    return bytes(body)


def _retry_after_s(response: requests.Response) -> float | None:
    """Retry-After in seconds or as a date (RFC 9110 10.2.3)."""
    text = response.headers.get("Retry-After", "").strip()
    if text.isdigit():
        return float(text)
    try:
        until = parsedate_to_datetime(text).timestamp()
    except (TypeError, ValueError):
        return None
    return max(0.0, until - time.time())


def _sick(sentence: str) -> Outcome:
    return Outcome(kind=DeliveryClass.RETRY, sentence=sentence, destination_sick=True)
