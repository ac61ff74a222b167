"""Who may call."""

import hashlib
import hmac
from collections.abc import Sequence

from fastapi import Security
from fastapi.security import HTTPBearer
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from service.errors import KeyMissing, KeyUnknown
from service.problems import problem_response

PROTECTED = "/v1"

# For the OpenAPI document alone: `KeyCheck` is what refuses.
DOCUMENTED = Security(
    HTTPBearer(
        scheme_name="key",
        description="A key that the operator of the service gave you.",
        auto_error=False,
    )
)


class KeyCheck:
    """Refuse a request without a key before anything of it is read or looked up.

    Around the whole of `/v1` rather than at each route, so that no route can be forgotten.
    """

    def __init__(self, app: ASGIApp, *, digests: Sequence[bytes]) -> None:
        self._app = app
        self._digests = digests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and _is_protected(scope["path"]):
            refusal = self._refusal(Headers(scope=scope).get("authorization"))
            if refusal is not None:
                await problem_response(refusal, scope)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _refusal(self, authorization: str | None) -> KeyMissing | KeyUnknown | None:
        scheme, _, key = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            return KeyMissing()
        digest = hashlib.sha256(key.strip().encode("latin-1")).digest()
        # Digests, and each of them compared whole: the time it takes says nothing about the keys.
        matches = [hmac.compare_digest(digest, known) for known in self._digests]
        return None if any(matches) else KeyUnknown()


def _is_protected(path: str) -> bool:
    return path == PROTECTED or path.startswith(f"{PROTECTED}/")
