"""Who may use the HTTP service, and for what, checked before anything else looks at a request.

Authentication stands in front of every route, also those that do not exist, and answers before a
byte of the body is read. It is ASGI and so the second place with ``async``: a dependency of single
routes could be forgotten on the next one. Who guesses is made to wait, and stands in the log.

Source: PS3.18 8.4 (status 401, 403); RFC 7617 (Basic), RFC 6750 (Bearer)
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import logging
import time
from typing import Final

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from node.config import AuthConfig
from node.domain.access import Right, least_role, rights_of
from node.domain.guesses import FORGOTTEN_AFTER_S, Guesses
from node.observe import counts

# probes carry no credentials; what they answer names nobody
PROBES: Final = frozenset({"/healthz", "/readyz"})

log = logging.getLogger(__name__)

_STORE_PATH: Final = "/dicom-web"
_API: Final = "/api/v1/"
_TO_LOOK_AT: Final = frozenset({"/metrics", "/api/openapi.json"})
_READS: Final = frozenset({"GET", "HEAD", "OPTIONS"})

USER_KEY: Final = "segnode.user"


def user_of(auth: AuthConfig, authorization: str) -> str | None:
    """The user whose password or token an Authorization header holds."""
    scheme, _, credentials = authorization.partition(" ")
    if auth.kind == "token" and scheme.lower() == "bearer":
        proofs = {name: user.secret for name, user in auth.users.items()}
        given = credentials.strip()
    elif auth.kind == "basic" and scheme.lower() == "basic":
        proofs = {name: f"{name}:{user.secret}" for name, user in auth.users.items()}
        given = _decoded(credentials)
    else:
        return None
    # every user is compared, in a time that does not depend on where they differ
    found = [name for name, proof in proofs.items() if _is_same(proof, given)]
    return found[0] if found else None


def right_for(method: str, path: str) -> Right:
    """What a request asks for, by its path alone: a route that is added is nobody's but the admin's.

    OPTIONS of the store is what a sender asks before it sends.
    """
    if path == _STORE_PATH or path.startswith(f"{_STORE_PATH}/"):
        return Right.LOOK if method in ("GET", "HEAD") else Right.STORE
    if path.startswith(_API):
        return Right.LOOK if method in _READS else Right.ACT
    return Right.LOOK if path in _TO_LOOK_AT and method in _READS else Right.GOVERN


class AccessControl:
    """ASGI middleware: lets a request pass with its user in the scope, or answers 401 or 403."""

    def __init__(
        self, application: ASGIApp, auth: AuthConfig, guesses: Guesses | None = None
    ) -> None:
        self._application = application
        self._auth = auth
        self._guesses = guesses or Guesses(time.monotonic)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        is_open = self._auth.kind == "none" or scope.get("path") in PROBES
        if scope["type"] == "http" and not is_open:
            authorization = Headers(scope=scope).get("authorization", "")
            address, account = (scope["client"] or ("",))[0], _account_in(authorization)
            if authorization and self._guesses.are_too_many(address, account):
                counts.add(counts.SIGN_INS_FAILED, "http")
                await self._wait()(scope, receive, send)
                return
            user = user_of(self._auth, authorization)
            if user is None:
                if authorization:
                    self._guesses.note(address, account)
                    told = {"address": address, "account": ascii(account[:64])}
                    log.warning("a sign-in failed", extra=told)
                    counts.add(counts.SIGN_INS_FAILED, "http")
                await self._refusal()(scope, receive, send)
                return
            right = right_for(scope["method"], scope["path"])
            if right not in rights_of(self._auth.users[user].roles):
                told = {"address": address, "account": user, "right": right.value}
                log.warning("a request was not allowed", extra=told)
                sentence = f"{user} may not do this: it takes the role {least_role(right)}"
                await JSONResponse({"detail": sentence}, 403)(scope, receive, send)
                return
            scope[USER_KEY] = user
        await self._application(scope, receive, send)

    def _wait(self) -> JSONResponse:
        wait_s = f"{FORGOTTEN_AFTER_S:.0f}"
        sentence = f"too many sign-ins failed: wait {wait_s} s"
        return JSONResponse({"detail": sentence}, 429, headers={"Retry-After": wait_s})

    def _refusal(self) -> JSONResponse:
        is_token = self._auth.kind == "token"
        challenge = (
            'Bearer realm="segnode"' if is_token else 'Basic realm="segnode", charset="UTF-8"'
        )
        return JSONResponse(
            {"detail": "credentials are needed"}, 401, headers={"WWW-Authenticate": challenge}
        )


def _account_in(authorization: str) -> str:
    """The user that somebody claims to be; with a token nobody says who."""
    scheme, _, credentials = authorization.partition(" ")
    return _decoded(credentials).partition(":")[0] if scheme.lower() == "basic" else "token"


def _decoded(credentials: str) -> str:
    try:
        return base64.b64decode(credentials.strip(), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return ""


def _is_same(proof: str, given: str) -> bool:
    """Compare digests: equal lengths, so that not even the length of a secret shows."""
    digests = (hashlib.sha256(text.encode("utf-8", "surrogateescape")) for text in (proof, given))
    return hmac.compare_digest(*(digest.digest() for digest in digests))
