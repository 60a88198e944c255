"""Destinations of kind ``dicomweb``: results by STOW-RS, as user agent.

Why not ``dicomweb_client.DICOMwebClient.store_instances``: it encodes every data set again and holds
the whole message in memory, follows redirects, repeats requests on its own, drops the body of a 409
and knows no total time limit. One streamed POST is what an outbox needs.

Source: PS3.18 10.5 (store transaction), 8.6.1 (multipart), Annex I (response).
"""

from __future__ import annotations

import time
import uuid
import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import IO, ClassVar, Literal
from urllib.parse import urlsplit

import requests
from requests.auth import HTTPBasicAuth
from urllib3 import HTTPResponse
from urllib3.exceptions import HTTPError, ProtocolError

from node.deliver.destination import Destination, Probe, result_file_gone, sick
from node.deliver.stow_answer import classify_http, judge_answer, tells
from node.domain.delivery import DeliverableObject, Outcome
from node.domain.settings import Mistake, Secret, Settings, Timeout, mistakes_of_secrets
from node.domain.tls import ClientTls
from node.tls import mistakes_of, why_not_called

# about one object a kilobyte is said; read as JSON it may become 25 times as much
_ANSWER_MAX_BYTES = 256 << 10
_CHUNK_BYTES = 1 << 16
_GZIP_OR_ZLIB = zlib.MAX_WBITS | 32
_ANSWERS = (301, 400, 401, 403, 404, 408, 413, 415, 429, 500, 503)
_UNWELCOME = (401, 403, 404)


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials(Settings):
    """How the node signs in: user and password (RFC 7617), or a bearer token (RFC 6750)."""

    kind: Literal["none", "basic", "token"]
    user: str = ""
    password: Secret | None = None
    token: Secret | None = None

    def mistakes(self) -> Iterator[Mistake]:
        if self.kind == "none":
            return
        if self.kind == "basic" and not self.user:
            yield "user", "required for kind basic"
        yield from mistakes_of_secrets(self.kind, self.password, self.token)


@dataclass(frozen=True, slots=True, kw_only=True)
class DicomwebDestination(Destination):
    """A STOW-RS origin server.

    Args:
        url: Base of the DICOMweb service; ``/studies`` is appended.
        tls: Authorities to trust instead of the public ones, and a certificate of this node. What is
            shown there is always verified.
        answer_timeout_s: From the last byte sent to the last byte of the answer.
    """

    needs: ClassVar[str] = "`url`"
    does: ClassVar[str] = "STOW-RS to `url`/studies"
    service: ClassVar[str] = "STOW-RS user agent"

    kind: Literal["dicomweb"] = "dicomweb"
    url: str
    auth: Credentials | None = None
    tls: ClientTls | None = None
    connect_timeout_s: Timeout = 10.0
    answer_timeout_s: Timeout = 120.0

    def mistakes(self) -> Iterator[Mistake]:
        if sentence := _mistake_of_url(self.url):
            yield "url", sentence
        if self.tls is not None and not self.url.startswith("https:"):
            yield "tls", "of use with a URL that begins with https: only"

    @classmethod
    def answers(cls) -> Mapping[str, Mapping[str, Outcome]]:
        """HTTP statuses that say by themselves what became of the object."""
        return {"HTTP": {f"HTTP {status}": classify_http(status) for status in _ANSWERS}}

    def send(self, deliverable: DeliverableObject) -> Outcome:
        path = Path(deliverable.path)
        if not path.is_file():
            return result_file_gone()
        if why := self._why_not():
            return sick(why)
        with self._session() as session, path.open("rb") as file:
            return self._post(session, _Multipart(file), deliverable.sop_instance_uid)

    def probe(self) -> Probe:
        """An OPTIONS request: it stores nothing, and still says who may come in."""
        if why := self._why_not():
            return Probe.bad(why)
        try:
            with self._session() as session:
                answer = session.options(
                    self._studies,
                    timeout=(self.connect_timeout_s, self.answer_timeout_s),
                    allow_redirects=False,
                    stream=True,  # what else it says is not read
                )
                answer.close()
        except requests.RequestException as error:
            why = "its certificate cannot be verified" if _is_tls(error) else type(error).__name__
            return Probe.bad(f"{self._studies} does not answer ({why})")
        if answer.is_redirect:
            elsewhere = "redirects elsewhere, which is not followed: correct the URL"
            return Probe.bad(f"{self._studies} {elsewhere}")
        if answer.status_code in _UNWELCOME or answer.status_code >= 500:
            return Probe.bad(f"{self._studies} answers HTTP {answer.status_code}")
        return Probe.good(f"{self._studies} answers (HTTP {answer.status_code} to OPTIONS)")

    def _why_not(self) -> str:
        """What forbids to ask at all; empty where nothing does."""
        if self.tls is not None and (found := mistakes_of(self.tls, "tls")):
            return "; ".join(f"{at}: {sentence}" for at, sentence in found)
        return why_not_called(self.url)

    @property
    def _studies(self) -> str:
        return f"{self.url.rstrip('/')}/studies"

    def _session(self) -> requests.Session:
        """Without proxies and .netrc of whoever started the node: the configuration is all."""
        session = requests.Session()
        session.trust_env = False
        tls = self.tls or ClientTls()
        session.verify = tls.ca or True
        session.cert = (tls.certificate, tls.key) if tls.certificate else None
        if self.auth is not None and self.auth.password is not None:
            # as UTF-8 (RFC 7617 2.1): requests itself knows Latin-1 only
            user, password = self.auth.user.encode(), self.auth.password.value.encode()
            session.auth = HTTPBasicAuth(user, password)
        if self.auth is not None and self.auth.token is not None:
            session.headers["Authorization"] = f"Bearer {self.auth.token.value}"
        return session

    def _post(
        self, session: requests.Session, message: _Multipart, sop_instance_uid: str
    ) -> Outcome:
        try:
            with session.post(
                self._studies,
                data=message,
                headers={
                    "Content-Type": message.content_type,
                    "Accept": "application/dicom+json",
                    "Accept-Encoding": "identity",
                },
                timeout=(self.connect_timeout_s, self.answer_timeout_s),
                allow_redirects=False,
                stream=True,
            ) as response:
                deadline = time.monotonic() + self.answer_timeout_s
                body = _read_answer(response, deadline) if tells(response.status_code) else b""
        except AnswerTooLong:
            return sick(f"the destination's answer is longer than {_ANSWER_MAX_BYTES >> 10} KB")
        except requests.exceptions.SSLError:
            # a certificate does not mend itself, but an operator of the peer may mend it
            return sick("the destination's certificate cannot be verified")
        except (requests.exceptions.ConnectTimeout, requests.exceptions.ConnectionError):
            return sick("no connection to the destination, or it was lost")
        except requests.exceptions.Timeout:
            return sick("the destination did not answer in time")
        except requests.exceptions.RequestException as error:
            return sick(f"the HTTP exchange broke off ({type(error).__name__})")
        return judge_answer(response.status_code, body, sop_instance_uid, _retry_after_s(response))


def _is_tls(error: requests.RequestException) -> bool:
    return isinstance(error, requests.exceptions.SSLError)


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


def _mistake_of_url(url: str) -> str:
    if not url.startswith(("http://", "https://")):
        return "takes a URL that begins with http:// or https://"
    try:
        parts = urlsplit(url)
        has_host = bool(parts.hostname) and parts.port != 0 and len(parts.netloc.split()) == 1
    except ValueError:
        has_host = False
    if not has_host:
        return "is no URL with a host, and a port below 65536"
    return "holds a password: use auth with password_env" if parts.password is not None else ""


class AnswerTooLong(requests.RequestException):
    """Nobody says so much about one object."""


def _read_answer(response: requests.Response, deadline: float) -> bytes:
    """The body, bounded in size and time: a peer that drips must not hold a sender.

    It is taken as it comes over the line: whoever packs it although nobody asked gets no more room.
    """
    raw: HTTPResponse = response.raw
    packed = response.headers.get("Content-Encoding", "identity").strip().lower()
    unpacker = zlib.decompressobj(_GZIP_OR_ZLIB) if packed in ("gzip", "deflate") else None
    body = bytearray()
    try:
        # not by stream(): older urllib3 reads the line of a chunk's size however long it is
        while chunk := raw.read(_CHUNK_BYTES, decode_content=False):
            room = _ANSWER_MAX_BYTES + 1 - len(body)
            body += chunk if unpacker is None else unpacker.decompress(chunk, room)
            if len(body) > _ANSWER_MAX_BYTES:
                raise AnswerTooLong
            if time.monotonic() > deadline:
                raise requests.exceptions.ReadTimeout
    except ProtocolError as error:
        raise requests.exceptions.ChunkedEncodingError from error
    except HTTPError as error:
        raise requests.exceptions.ConnectionError from error
    except zlib.error as error:
        raise requests.exceptions.ContentDecodingError from error
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
    with suppress(TypeError, ValueError):  # by its own clock: ours may be another
        return max(0.0, until - parsedate_to_datetime(response.headers.get("Date", "")).timestamp())
    return max(0.0, until - time.time())
