"""TLS: contexts for ports and for calls, and what certificates say.

Enters: ``ServerTls`` and ``ClientTls`` of the configuration. Leaves: ``ssl.SSLContext``: TLS 1.2 and 1.3
with forward secrecy and authenticated encryption. ``PortTls`` reads the files again when they change, so that a
renewed certificate needs no restart.

``why_not_called`` says which hosts are called for nobody.

Can fail: ``ConfigInvalid`` with every file that cannot be used.

Source: PS3.15 B.12 (BCP 195: RFC 8996, RFC 9325), RFC 6125 (names).
"""

from node.tls.addresses import why_not_called
from node.tls.contexts import VERSIONS, PortTls, client_context, mistakes_of, names_in, why_refused
from node.tls.expiry import Expiry, expiry_of

__all__ = [
    "VERSIONS",
    "Expiry",
    "PortTls",
    "client_context",
    "expiry_of",
    "mistakes_of",
    "names_in",
    "why_not_called",
    "why_refused",
]
