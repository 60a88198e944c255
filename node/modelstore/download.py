"""One file over HTTP: gone on with where it was cut, and no secret in any message.

What came so far lies in a ``.part`` file; a small file beside it says of which URL and which state of
the file there it is a part. Proxies, ``~/.netrc`` and the certificate authorities of the environment
are used as ``requests`` finds them.

Source: RFC 9110 14 (range requests), 13.1.5 (If-Range).
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import requests

from node.domain.errors import NodeError

PAUSES_S = (0.0, 1.0, 2.0, 4.0, 8.0)  # before each try; the first try does not wait
_TIMEOUT_S = (10.0, 60.0)  # to connect, and between two pieces of an answer
_CHUNK_BYTES = 1 << 16  # what is lost when a line is cut
_SPARE_BYTES = 50_000_000  # a disk is not filled to its last byte
_ABSENT = (404, 410)
_PASSING = (408, 425, 429, 500, 502, 503, 504)
_OK, _PARTIAL, _NOT_SATISFIABLE = 200, 206, 416


class Progress(Protocol):
    """Told how a file grows."""

    def begin(self, done_bytes: int, total_bytes: int | None) -> None:
        """A transfer starts, or goes on after ``done_bytes``; the total is None where untold."""

    def advance(self, count_bytes: int) -> None:
        """So many bytes more."""


class FetchFailed(NodeError):
    """A file could not be brought.

    Args:
        is_absent: Whether the place answered, and has no such file.
    """

    def __init__(self, sentence: str, *, is_absent: bool = False) -> None:
        super().__init__(sentence)
        self.is_absent = is_absent


class _Broken(Exception):
    """A try ended early; another may go on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Download:
    """How files are brought.

    Args:
        wait: Called with seconds, between two tries.
    """

    session: requests.Session
    progress: Progress
    wait: Callable[[float], None] = time.sleep

    def bring(self, url: str, part: Path, *, has_hash: bool) -> None:
        """The whole file at ``part``, synced to the disk.

        Args:
            has_hash: Whether the caller knows what the file must be. A file of which nobody knows
                is gone on with only where the server says that it did not change.
        Raises:
            FetchFailed: With one sentence; what came is kept where another call can go on with it.
        """
        where = shown(url)
        for number, pause_s in enumerate(PAUSES_S):
            if pause_s:
                self.wait(pause_s)
            try:
                self._try(url, part, has_hash=has_hash)
                return
            except requests.exceptions.SSLError:
                raise FetchFailed(
                    f"{where}: its certificate is not trusted here;"
                    " REQUESTS_CA_BUNDLE names the file of an authority of your own"
                ) from None
            except requests.RequestException as error:
                if number == 0:
                    raise FetchFailed(f"{where}: {_why_unreachable(error)}") from None
            except _Broken:
                pass
            except OSError as error:
                raise FetchFailed(disk_sentence(error, part)) from None
        raise FetchFailed(
            f"{where}: broke off {len(PAUSES_S)} times;"
            " what came is kept, and the next pull goes on from there"
        )

    def _try(self, url: str, part: Path, *, has_hash: bool) -> None:
        done, validator = _resumable(url, part, has_hash=has_hash)
        headers = {"Accept-Encoding": "identity"}
        if done:
            headers["Range"] = f"bytes={done}-"
            if validator:
                headers["If-Range"] = validator
        with self.session.get(url, headers=headers, stream=True, timeout=_TIMEOUT_S) as answer:
            if answer.status_code == _NOT_SATISFIABLE:
                if _total_of_range(answer) != done:
                    forget_part(part)
                    raise _Broken
                return
            _require_file(url, answer)
            is_rest = answer.status_code == _PARTIAL
            if is_rest and _start_of_range(answer) != done:
                forget_part(part)
                raise _Broken
            done = done if is_rest else 0
            total = _total_of_range(answer) if is_rest else _length(answer)
            if total is None and not has_hash:
                raise FetchFailed(
                    f"{shown(url)}: tells no length, and the model names no hash:"
                    " nothing would say that the file is whole"
                )
            require_space(part.parent, (total or 0) - done)
            if not is_rest:
                _note(part).write_text(json.dumps(_state(url, answer)), encoding="utf-8")
            self.progress.begin(done, total)
            self._write(answer, part, "ab" if is_rest else "wb")
        if total is not None and part.stat().st_size != total:
            raise _Broken

    def _write(self, answer: requests.Response, part: Path, mode: str) -> None:
        with part.open(mode) as file:
            try:
                for chunk in answer.iter_content(_CHUNK_BYTES):
                    file.write(chunk)
                    self.progress.advance(len(chunk))
            except requests.RequestException as error:
                raise _Broken from error
            finally:
                file.flush()
                os.fsync(file.fileno())


def shown(url: str) -> str:
    """A URL as a message may show it: without user, password, query and fragment."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return "a URL that is none"
    return f"{parts.scheme}://{host}{port}{parts.path}"


def forget_part(part: Path) -> None:
    """Remove what came of a file."""
    part.unlink(missing_ok=True)
    _note(part).unlink(missing_ok=True)


def require_space(folder: Path, size_bytes: int) -> None:
    """Refuse a file that does not fit.

    Raises:
        FetchFailed: It does not.
    """
    free_bytes = shutil.disk_usage(folder).free
    if size_bytes + _SPARE_BYTES > free_bytes:
        raise FetchFailed(
            f"{size_bytes / 1e6:.0f} MB more are needed and {free_bytes / 1e6:.0f} MB are free in"
            " weights_dir: make room, or name another folder"
        )


def disk_sentence(error: OSError, path: Path) -> str:
    """A failure to write, in a sentence for the operator."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"no room left for {path.name} in weights_dir: make room, or name another folder"
    why = os.strerror(error.errno).lower() if error.errno else type(error).__name__
    return f"{path.name} cannot be written ({why}): see weights_dir in the configuration"


def _why_unreachable(error: Exception) -> str:
    if isinstance(error, requests.exceptions.ProxyError):
        return "the proxy of this machine does not let it through"
    if isinstance(error, requests.exceptions.ConnectionError):
        return (
            "the host cannot be reached from here;"
            " --from and weights_mirror name a folder or another URL"
        )
    return type(error).__name__


def _require_file(url: str, answer: requests.Response) -> None:
    """Whether the answer is the file, or a part of it.

    Raises:
        FetchFailed: It is something else for good.
        _Broken: Another try may succeed.
    """
    where = shown(url)
    if answer.status_code in _PASSING:
        raise _Broken
    if answer.status_code in _ABSENT:
        raise FetchFailed(f"{where} is not there (HTTP {answer.status_code})", is_absent=True)
    if answer.status_code not in (_OK, _PARTIAL):
        raise FetchFailed(
            f"{where} is refused (HTTP {answer.status_code}): where it asks you to sign in, fetch it"
            " with a browser and give its folder with --from"
        )
    if urlsplit(url).scheme == "https" and urlsplit(answer.url).scheme != "https":
        raise FetchFailed(f"{where} leads to an address without TLS, which is not followed")
    if answer.headers.get("Content-Type", "").startswith("text/html"):
        raise FetchFailed(
            f"{where} answers with a web page, not with the file: sign in, or a proxy?"
        )


def _resumable(url: str, part: Path, *, has_hash: bool) -> tuple[int, str]:
    """How many bytes of this URL are there to go on with, and what If-Range says of them."""
    try:
        state = json.loads(_note(part).read_text(encoding="utf-8"))
        done = part.stat().st_size
        validator = str(state["validator"])
        is_same = state["url"] == _fingerprint(url)
    except (OSError, ValueError, TypeError, KeyError):
        return 0, ""
    return (done, validator) if is_same and (validator or has_hash) else (0, "")


def _state(url: str, answer: requests.Response) -> dict[str, str]:
    etag = answer.headers.get("ETag", "")
    validator = etag if etag.startswith('"') else answer.headers.get("Last-Modified", "")
    return {"url": _fingerprint(url), "validator": validator}


def _fingerprint(url: str) -> str:
    """Tells one URL from another without keeping a secret that stands in it."""
    return hashlib.sha256(url.encode()).hexdigest()


def _note(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _length(answer: requests.Response) -> int | None:
    is_plain = answer.headers.get("Content-Encoding", "identity") == "identity"
    return _number(answer.headers.get("Content-Length", "")) if is_plain else None


def _total_of_range(answer: requests.Response) -> int | None:
    return _number(answer.headers.get("Content-Range", "").rpartition("/")[2])


def _start_of_range(answer: requests.Response) -> int | None:
    content_range = answer.headers.get("Content-Range", "")
    return _number(content_range.removeprefix("bytes ").partition("-")[0])


def _number(text: str) -> int | None:
    return int(text) if text.isdigit() else None
