"""Who may use the HTTP service, checked before anything else looks at a request.

Authentication stands in front of every route, also those that do not exist, and answers before a
byte of the body is read. It is ASGI and so the second place with ``async``: a dependency of single
routes could be forgotten on the next one.

Source: PS3.18 8.4 (statuses 401, 403); RFC 7617 (Basic), RFC 6750 (Bearer)
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

# probes carry no credentials; what they answer names nobody
_OPEN_PATHS: Final = frozenset({"/healthz", "/readyz"})
USER_KEY: Final = "segnode.user"


class May(StrEnum):
    """What an account is allowed."""

    STORE = "store"  # send instances by STOW-RS
    READ = "read"  # see series, jobs, results, with names of patients
    ACT = "act"  # proceed, rerun, retry, cancel, discard


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """One user or token.

    Args:
        name: User name of Basic; with Bearer only the name that is logged and matched to a peer.
    """

    name: str
    secret: str
    may: frozenset[May] = frozenset(May)

    def __post_init__(self) -> None:
        if not self.secret:
            raise ValueError(f"account {self.name!r} has an empty secret")

    def __repr__(self) -> str:
        return f"Account({self.name!r})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Authentication:
    """How callers prove who they are: ``none``, ``basic`` or ``token``."""

    kind: str = "none"
    accounts: Sequence[Account] = ()

    def __post_init__(self) -> None:
        if self.kind not in ("none", "basic", "token"):
            raise ValueError(f"unknown authentication {self.kind!r}")
        if (self.kind == "none") != (not self.accounts):
            raise ValueError(f"authentication {self.kind!r} with {len(self.accounts)} accounts")

    @property
    def challenge(self) -> str:
        """The value of WWW-Authenticate."""
        scheme = "Bearer" if self.kind == "token" else "Basic"
        return f'{scheme} realm="segnode"' + (', charset="UTF-8"' if scheme == "Basic" else "")

    def account_of(self, authorization: str) -> Account | None:
        """The account that an Authorization header proves."""
        scheme, _, credentials = authorization.partition(" ")
        if self.kind == "token" and scheme.lower() == "bearer":
            proofs = [(account, account.secret) for account in self.accounts]
            given = credentials.strip()
        elif self.kind == "basic" and scheme.lower() == "basic":
            proofs = [(account, f"{account.name}:{account.secret}") for account in self.accounts]
            given = _decoded(credentials)
        else:
            return None
        # every account is compared, in a time that does not depend on where they differ
        found = [account for account, proof in proofs if _is_same(proof, given)]
        return found[0] if found else None


OPEN: Final = Authentication()


class AccessControl:
    """ASGI middleware: lets a request pass with its user in the scope, or answers 401 or 403."""

    def __init__(
        self, application: ASGIApp, authentication: Authentication, *, stow_prefix: str
    ) -> None:
        self._application = application
        self._authentication = authentication
        self._stow_prefix = stow_prefix.rstrip("/") + "/"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        is_open = self._authentication.kind == "none" or scope.get("path") in _OPEN_PATHS
        if scope["type"] == "http" and not is_open:
            authorization = Headers(scope=scope).get("authorization", "")
            account = self._authentication.account_of(authorization)
            if account is None:
                challenge = {"WWW-Authenticate": self._authentication.challenge}
                await _refusal(401, "credentials are needed", challenge)(scope, receive, send)
                return
            if self._needed(scope) not in account.may:
                await _refusal(403, "this account may not do that")(scope, receive, send)
                return
            scope[USER_KEY] = account.name
        await self._application(scope, receive, send)

    def _needed(self, scope: Scope) -> May:
        if f"{scope['path']}/".startswith(self._stow_prefix):
            return May.STORE
        return May.READ if scope["method"] in ("GET", "HEAD", "OPTIONS") else May.ACT


def _refusal(status: int, detail: str, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"detail": detail}, status_code=status, headers=headers)


def _decoded(credentials: str) -> str:
    try:
        return base64.b64decode(credentials.strip(), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return ""


def _is_same(proof: str, given: str) -> bool:
    """Compare digests: equal lengths, so that not even the length of a secret shows."""
    digests = (hashlib.sha256(text.encode("utf-8", "surrogateescape")) for text in (proof, given))
    return hmac.compare_digest(*(digest.digest() for digest in digests))
