"""A server of files that can be told to misbehave: for what fetches over HTTP."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Files:
    """What a server has, how it answers, and what it was asked.

    Args:
        contents: Path -> bytes.
        most_of_a_range: More is not given in one answer, which RFC 9110 15.3.7 allows.
        rounds_down_to: Ranges begin at a multiple of it, whatever was asked for.
        cuts: How many bytes of each of the next answers go out before the line is cut.
        refusals: Statuses of the next answers.
        redirects: Path -> URL.
        asked: (path, Range, If-Range) of every request.
    """

    contents: dict[str, bytes] = field(default_factory=dict)
    has_ranges: bool = True
    tells_length: bool = True
    etag: str = '"one"'
    content_type: str = "application/octet-stream"
    most_of_a_range: int = 1 << 40
    rounds_down_to: int = 1
    cuts: list[int] = field(default_factory=list)
    refusals: list[int] = field(default_factory=list)
    redirects: dict[str, str] = field(default_factory=dict)
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    authorizations: list[str] = field(default_factory=list)
    url: str = ""


@contextmanager
def serving_files(files: Files) -> Iterator[Files]:
    """The files on a free port of the loopback interface, until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            _answer(self, files)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    files.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield files
    finally:
        server.shutdown()
        thread.join(10)
        server.server_close()


def _answer(to: BaseHTTPRequestHandler, files: Files) -> None:
    path = to.path.partition("?")[0]
    wanted = to.headers.get("Range", "")
    files.asked.append((path, wanted, to.headers.get("If-Range", "")))
    files.authorizations.append(to.headers.get("Authorization", ""))
    if files.refusals:
        _refuse(to, files.refusals.pop(0))
        return
    if path in files.redirects:
        to.send_response(302)
        to.send_header("Location", files.redirects[path])
        to.send_header("Content-Length", "0")
        to.end_headers()
        return
    content = files.contents.get(path)
    if content is None:
        _refuse(to, 404)
        return
    start = _start(to, files, wanted)
    if start >= len(content) and start:
        to.send_response(416)
        to.send_header("Content-Range", f"bytes */{len(content)}")
        to.send_header("Content-Length", "0")
        to.end_headers()
        return
    end = min(len(content), start + files.most_of_a_range) if start else len(content)
    to.send_response(206 if start else 200)
    if start:
        to.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(content)}")
    if files.etag:
        to.send_header("ETag", files.etag)
    to.send_header("Content-Type", files.content_type)
    if files.tells_length:
        to.send_header("Content-Length", str(end - start))
    to.end_headers()
    body = content[start:end]
    to.wfile.write(body[: files.cuts.pop(0)] if files.cuts else body)
    to.close_connection = True


def _start(to: BaseHTTPRequestHandler, files: Files, wanted: str) -> int:
    condition = to.headers.get("If-Range", "")
    if not wanted or not files.has_ranges or (condition and condition != files.etag):
        return 0
    asked = int(wanted.removeprefix("bytes=").partition("-")[0])
    return asked // files.rounds_down_to * files.rounds_down_to


def _refuse(to: BaseHTTPRequestHandler, status: int) -> None:
    to.send_response(status)
    to.send_header("Content-Length", "0")
    to.end_headers()
