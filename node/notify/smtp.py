"""Notifiers of kind ``smtp``: mail, several notices in one.

Source: RFC 5321 (SMTP), RFC 3207 (STARTTLS), RFC 8314 (implicit TLS), RFC 5322 (Message-ID)
"""

from __future__ import annotations

import smtplib
import socket
import ssl
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.message import EmailMessage
from email.utils import format_datetime, parseaddr
from typing import ClassVar, Literal

from node.domain.notice import Course, Notice, Told
from node.domain.settings import FileName, Mistake, Port, Secret, Timeout
from node.notify.notifier import Notifier

_BEGINS = {Course.BEGAN: "", Course.GREW: "more: ", Course.OVER: "over: "}
_SUBJECT_LENGTH = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class Mail(Notifier):
    """A mail server that takes messages of this node.

    Args:
        security: ``starttls`` (port 587), ``tls`` from the first byte (465), or ``none``.
        ca: Authorities to trust instead of the public ones.
        sender: The address that mail comes from; ``to``: those it goes to.
        timeout_s: To connect, and for each answer.
    """

    most_at_once: ClassVar[int] = 50

    kind: Literal["smtp"] = "smtp"
    host: str
    port: Port = 587
    security: Literal["starttls", "tls", "none"] = "starttls"
    ca: FileName = ""
    user: str = ""
    password: Secret | None = None
    sender: str
    to: tuple[str, ...]
    timeout_s: Timeout = 20.0

    def _own_mistakes(self) -> Iterator[Mistake]:
        if not self.to:
            yield "to", "must not be empty: name at least one"
        for at, address in (
            ("sender", self.sender),
            *((f"to.{n}", a) for n, a in enumerate(self.to)),
        ):
            if not _is_address(address):
                yield at, "takes one address, such as segnode@hospital.example"
        if bool(self.user) != (self.password is not None):
            yield "user", "goes with password_env or password_file"
        if self.user and self.security == "none":
            yield "security", "none would send the password in the clear: say starttls or tls"

    def send(self, notices: Sequence[Notice]) -> Told:
        try:
            with self._connected() as server:
                server.send_message(self.message(notices), self.sender, list(self.to))
        except smtplib.SMTPResponseException as refused:
            return Told(is_told=False, sentence=f"the mail server answers {refused.smtp_code}")
        except smtplib.SMTPRecipientsRefused as refused:
            codes = sorted({code for code, _ in refused.recipients.values()})
            told = ", ".join(map(str, codes))
            return Told(is_told=False, sentence=f"the mail server refuses all recipients ({told})")
        except (OSError, smtplib.SMTPException) as error:
            why = type(error).__name__
            return Told(is_told=False, sentence=f"the mail server cannot be used ({why})")
        return Told(is_told=True)

    def message(self, notices: Sequence[Notice]) -> EmailMessage:
        """One mail that tells several notices, the first in its subject."""
        first = notices[0]
        rest = f" (and {len(notices) - 1} more)" if len(notices) > 1 else ""
        mail = EmailMessage()
        subject = f"[segnode] {_BEGINS[first.course]}{first.sentence}"
        mail["Subject"] = subject[:_SUBJECT_LENGTH] + rest
        mail["From"], mail["To"] = self.sender, ", ".join(self.to)
        mail["Date"] = format_datetime(datetime.now(UTC))
        # the same at every attempt: what is stored twice can be told
        domain = self.sender.rpartition("@")[2]
        mail["Message-ID"] = f"<{first.id}.{len(notices)}@{domain}>"
        mail["Auto-Submitted"] = "auto-generated"
        mail.set_content("\n\n".join(_paragraph(notice) for notice in notices) + "\n")
        return mail

    def _connected(self) -> smtplib.SMTP:
        own = socket.gethostname()
        if self.security == "tls":
            context = ssl.create_default_context(cafile=self.ca or None)
            server: smtplib.SMTP = smtplib.SMTP_SSL(
                self.host, self.port, own, timeout=self.timeout_s, context=context
            )
        else:
            server = smtplib.SMTP(self.host, self.port, own, timeout=self.timeout_s)
        try:
            if self.security == "starttls":
                server.starttls(context=ssl.create_default_context(cafile=self.ca or None))
            if self.password is not None:
                server.login(self.user, self.password.value)
        except (OSError, smtplib.SMTPException):
            server.close()
            raise
        return server


def _paragraph(notice: Notice) -> str:
    at = datetime.fromtimestamp(notice.at, UTC).astimezone().isoformat(" ", "seconds")
    lines = [f"{_BEGINS[notice.course]}{notice.sentence}"]
    if notice.course is not Course.OVER:
        lines.append(f"What to do: {notice.do}")
    about = f"{notice.code} {notice.subject}".rstrip()
    return "\n".join([*lines, f"({about}, {at})"])


def _is_address(text: str) -> bool:
    _, address = parseaddr(text)
    local, at, domain = address.rpartition("@")
    return address == text and bool(local and at and domain) and text.isascii() and " " not in text
