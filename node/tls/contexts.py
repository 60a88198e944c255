"""Contexts: what the configuration says of TLS, as ``ssl.SSLContext``."""

from __future__ import annotations

import logging
import os
import ssl
import time
from collections.abc import Iterable, Iterator, Mapping
from errno import EACCES
from pathlib import Path
from typing import Any

from node.domain.errors import ConfigInvalid
from node.domain.settings import Mistake
from node.domain.tls import ClientTls, ServerTls

VERSIONS = ("TLS 1.2", "TLS 1.3")
# RFC 9325 4.2 for TLS 1.2: ephemeral keys and authenticated encryption; 1.3 has nothing else
_CIPHERS_OF_1_2 = "ECDHE+AESGCM:ECDHE+CHACHA20"
_LOOK_S = 1.0
_VERIFY_MODES = {
    "required": ssl.CERT_REQUIRED,
    "optional": ssl.CERT_OPTIONAL,
    "none": ssl.CERT_NONE,
}

_log = logging.getLogger(__name__)

_State = tuple[tuple[int, int, int] | None, ...]


class PortTls:
    """TLS of a port of this node; renewed files count from the next connection on.

    Args:
        at: Where it stands in the configuration, such as ``dimse.tls``.
    Attributes:
        context: For a server that keeps one: it has the files in force for every handshake.
    Raises:
        ConfigInvalid: Its files cannot be used.
    """

    def __init__(self, tls: ServerTls, at: str) -> None:
        if found := mistakes_of(tls, at):
            raise ConfigInvalid(found)
        self._tls = tls
        self._at = at
        self._looked_at_s = time.monotonic()
        self._state = self._files()
        self._current = _server_context(tls)
        self.context = _server_context(tls)
        self.context.sni_callback = self._exchange

    def current(self) -> ssl.SSLContext:
        """The context of the files as they are; of those before, where they cannot be used."""
        now_s = time.monotonic()
        if now_s - self._looked_at_s < _LOOK_S:
            return self._current
        self._looked_at_s = now_s
        state = self._files()
        if state == self._state:
            return self._current
        self._state = state
        if found := mistakes_of(self._tls, self._at):
            for at, sentence in found:
                _log.error("the certificate of before stays in force: %s %s", at, sentence)
            return self._current
        self._current = _server_context(self._tls)
        _log.info("certificates were read anew", extra={"at": self._at})
        return self._current

    def _exchange(self, connection: Any, _name: str | None, _context: ssl.SSLContext) -> None:
        """Called for each handshake, whether the client names a server or not."""
        connection.context = self.current()

    def _files(self) -> _State:
        return tuple(_state_of(name) for name in _files_of(self._tls))


def client_context(tls: ClientTls) -> ssl.SSLContext:
    """For calls; certificate and name of whoever is called are verified.

    Raises:
        OSError: A file cannot be used; see ``mistakes_of``.
    """
    context = ssl.create_default_context(cafile=tls.ca or None)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS_OF_1_2)
    if tls.certificate:
        context.load_cert_chain(tls.certificate, tls.key, password=_no_passphrase)
    return context


def mistakes_of(tls: ServerTls | ClientTls, at: str) -> list[Mistake]:
    """Each file that cannot be used, by its place in the configuration."""
    keys = ("certificate", "key", "ca")
    found = [
        (f"{at}.{key}", sentence)
        for key in keys
        if (name := getattr(tls, key)) and (sentence := _why_unreadable(Path(name)))
    ]
    return found or [(f"{at}.{key}", sentence) for key, sentence in _why_of_no_use(tls)]


def names_in(certificate: Mapping[str, Any]) -> frozenset[str]:
    """Host names, addresses and common names that a certificate is made out to, in small letters.

    Args:
        certificate: As ``SSLSocket.getpeercert`` gives it.
    """
    names = {
        value.lower()
        for kind, value in certificate.get("subjectAltName", ())
        if kind in ("DNS", "IP Address")
    }
    for part in certificate.get("subject", ()):
        names |= {value.lower() for kind, value in part if kind == "commonName"}
    return frozenset(names)


def why_refused(error: OSError) -> str:
    """What went wrong in a handshake, for one line."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate not accepted: {error.verify_message}"
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.replace("_", " ").lower()
    return error.strerror or type(error).__name__


def _server_context(tls: ServerTls) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS_OF_1_2)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE
    context.load_cert_chain(tls.certificate, tls.key, password=_no_passphrase)
    if tls.ca:
        context.load_verify_locations(tls.ca)
    context.verify_mode = _VERIFY_MODES[tls.client]
    return context


def _why_of_no_use(tls: ServerTls | ClientTls) -> Iterator[Mistake]:
    """What is wrong with files that can be read."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    if tls.certificate:
        try:
            context.load_cert_chain(tls.certificate, tls.key, password=_no_passphrase)
        except ssl.SSLError as error:
            if error.reason == "KEY_VALUES_MISMATCH":
                yield "key", f"{tls.key} is not the key of {tls.certificate}"
            else:
                both = f"{tls.certificate} and {tls.key}"
                yield "certificate", f"{both} are not a certificate and its key in PEM"
        except OSError as encrypted:
            yield "key", f"{tls.key}: {encrypted.strerror}"
    if tls.ca:
        try:
            context.load_verify_locations(tls.ca)
        except ssl.SSLError:
            yield "ca", f"{tls.ca} holds no certificates in PEM"


def _why_unreadable(path: Path) -> str:
    try:
        with path.open("rb"):
            return ""
    except OSError as error:
        return f"{path} cannot be read: {error.strerror}"


def _no_passphrase() -> str:
    raise PermissionError(
        EACCES, "a key without a passphrase is needed, for this user's eyes alone"
    )


def _files_of(tls: ServerTls) -> Iterable[str]:
    return (tls.certificate, tls.key, *((tls.ca,) if tls.ca else ()))


def _state_of(name: str) -> tuple[int, int, int] | None:
    try:
        status = os.stat(name)  # noqa: PTH116 - asked for each connection
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns
