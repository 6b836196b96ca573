"""What every request passes before it is looked at: the key, and the limit of its size."""

import hmac
from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fedrouter.serving.requests import ServingError
from fedrouter.serving.responses import error_body

PUBLIC = ("/health", "/page/")  # what needs no key; the page asks for one


class ApiKeys:
    """Refuses requests without one of the keys, as `Authorization: Bearer KEY`.

    Args:
        app: what answers the others.
        keys: the keys; none: everything is allowed.
    """

    def __init__(self, app: ASGIApp, keys: Collection[str]) -> None:
        self._app = app
        self._keys = [key.encode() for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 401."""
        if scope["type"] == "http" and self._keys and not self._allowed(scope):
            message = "expected a valid key as 'Authorization: Bearer KEY'"
            headers = {"www-authenticate": "Bearer"}
            response = JSONResponse(error_body(message, 401), 401, headers)
            await response(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _allowed(self, scope: Scope) -> bool:
        path = scope["path"]
        if path == "/" or path.startswith(PUBLIC):
            return True
        scheme, _, key = Headers(scope=scope).get("authorization", "").partition(" ")
        given = key.strip().encode()
        # All are compared, so that the time does not tell which one is near.
        equal = [hmac.compare_digest(given, one) for one in self._keys]
        return scheme.lower() == "bearer" and any(equal)


class BodyLimit:
    """Refuses requests whose body is larger than a number of bytes.

    Args:
        app: what answers the others.
        limit: the largest body.
    """

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self._app = app
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 413."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        received = 0

        async def limited() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._limit:
                raise self._error()
            return message

        length = Headers(scope=scope).get("content-length", "0")
        if length.isdecimal() and int(length) > self._limit:
            error = self._error()
            await JSONResponse(error_body(str(error), 413), 413)(scope, receive, send)
            return
        await self._app(scope, limited, send)

    def _error(self) -> ServingError:
        return ServingError(f"the request is larger than {self._limit} bytes", 413)
