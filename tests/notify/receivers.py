"""Receivers of notices on real sockets: an HTTP endpoint that checks signatures, and a mail server."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from tests.support.peers import free_port


@dataclass
class Hook:
    """What came in, and what is answered."""

    status: int = 204
    requests: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    answered: dict[str, str] = field(default_factory=dict)
    port: int = field(default_factory=free_port)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    @property
    def messages(self) -> list[dict[str, Any]]:
        return [json.loads(body) for _, body in self.requests]

    @property
    def told(self) -> list[tuple[str, str, str]]:
        """Code, subject and course, each message once however often it came."""
        by_id = {head["webhook-id"]: json.loads(body)["data"] for head, body in self.requests}
        return [(data["code"], data["subject"], data["course"]) for data in by_id.values()]

    @contextmanager
    def listening(self) -> Iterator[Hook]:
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if hook.status < 300:
                    head = {name.lower(): value for name, value in self.headers.items()}
                    hook.requests.append((head, body))
                self.send_response(hook.status)
                for name, value in hook.answered.items():
                    self.send_header(name, value)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


@dataclass
class MailServer:
    """A mail server; with a context it wants STARTTLS and a password."""

    tls: ssl.SSLContext | None = None
    refuses: str = ""
    mails: list[Message] = field(default_factory=list)
    recipients: list[list[str]] = field(default_factory=list)
    port: int = field(default_factory=free_port)

    @property
    def by_id(self) -> dict[str, Message]:
        """Each message once, however often it came."""
        return {str(message["Message-ID"]): message for message in self.mails}

    async def handle_DATA(  # noqa: N802 - the name that the library looks for
        self, _server: SMTP, _session: Session, envelope: Envelope
    ) -> str:
        if self.refuses:
            return self.refuses
        assert isinstance(envelope.content, bytes)
        self.mails.append(message_from_bytes(envelope.content))
        self.recipients.append(list(envelope.rcpt_tos))
        return "250 taken"

    @contextmanager
    def listening(self) -> Iterator[MailServer]:
        def authenticate(
            _server: SMTP, _session: Session, _envelope: Envelope, _way: str, given: object
        ) -> AuthResult:
            is_right = isinstance(given, LoginPassword) and given.password == b"right"
            return AuthResult(success=is_right, handled=False)

        controller = Controller(
            self,
            hostname="127.0.0.1",
            port=self.port,
            tls_context=self.tls,
            require_starttls=self.tls is not None,
            auth_required=self.tls is not None,
            authenticator=authenticate,
        )
        controller.start()
        try:
            yield self
        finally:
            controller.stop()
