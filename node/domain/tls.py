"""TLS: what the configuration says of it, for ports of this node and for those that it calls.

Certificates and keys are files in PEM. Source: PS3.15 B.12 (BCP 195 profile), RFC 9325.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from node.domain.settings import FileName, Mistake, Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerTls(Settings):
    """How a port of this node speaks TLS.

    Args:
        certificate: Its own, and those between it and the authority.
        ca: Authorities whose certificates clients may show.
        client: Whether a client has to show one.
    """

    certificate: FileName
    key: FileName
    ca: FileName = ""
    client: Literal["required", "optional", "none"] = "none"

    def mistakes(self) -> Iterator[Mistake]:
        if self.client != "none" and not self.ca:
            yield "ca", f"required for client: {self.client}: who signs certificates of clients"
        if self.client == "none" and self.ca:
            yield "client", "ca is of no use with none: say required or optional"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientTls(Settings):
    """How this node speaks TLS to somebody whom it calls.

    Args:
        ca: Authorities that are trusted there; empty: the public ones.
        certificate: What this node shows where it is asked for one; with ``key``.
    """

    ca: FileName = ""
    certificate: FileName = ""
    key: FileName = ""

    def mistakes(self) -> Iterator[Mistake]:
        if bool(self.certificate) != bool(self.key):
            yield "key" if self.certificate else "certificate", "required with the other of the two"


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerTls(ClientTls):
    """How this node and a peer speak TLS over DIMSE.

    Args:
        name: What the certificate of the peer is made out to, when it is called and when it calls; empty:
            its host when it is called, and any certificate of the port's ``ca`` when it calls.
    """

    name: str = ""
