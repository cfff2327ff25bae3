"""Which of the SuperLink's paths its two listeners offer, and to whom."""

import hashlib
import hmac
from typing import Final

from server.bounds import Application, Receive, Scope, Send

SECRET_HEADER: Final = "x-mediclip-key"  # noqa: S105 - the name of a header
_FLEET: Final = "/v1/fleet/"
_RUNTIME: Final = "/v1/runtime/"
_HEALTH: Final = "/health"


def fleet_only(application: Application) -> Application:
    """Let nothing through but the sites' paths and health, over HTTP.

    Args:
        application: The SuperLink's ASGI application.

    Returns:
        An ASGI application that answers 404 to all else.
    """

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        if scope["type"] == "http" and (path.startswith(_FLEET) or path == _HEALTH):
            await application(scope, receive, send)
        elif scope["type"] == "http":
            headers = [(b"content-type", b"text/plain")]
            await send({"type": "http.response.start", "status": 404, "headers": headers})
            await send({"type": "http.response.body", "body": b"not found"})
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close"})

    return guarded


def with_secret(application: Application, secret: bytes) -> Application:
    """Let nobody list, register or submit who does not know the coordinator's secret.

    Flower's own tokens guard the paths of its programs: SuperExec's, by the same secret, and those of a task.

    Args:
        application: The SuperLink's ASGI application.
        secret: The coordinator's secret.

    Returns:
        An ASGI application that answers 403 to all but health and the programs' paths without the secret.
    """
    expected = control_token(secret).encode()

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        is_open = scope["type"] == "lifespan" or path == _HEALTH or path.startswith(_RUNTIME)
        given = dict(scope.get("headers", ())).get(SECRET_HEADER.encode(), b"")
        if is_open or hmac.compare_digest(given, expected):
            await application(scope, receive, send)
        elif scope["type"] == "http":
            headers = [(b"content-type", b"text/plain")]
            await send({"type": "http.response.start", "status": 403, "headers": headers})
            await send({"type": "http.response.body", "body": b"forbidden"})
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close"})

    return guarded


def control_token(secret: bytes) -> str:
    """Derive what the control API asks for, so that SuperExec's key never travels."""
    return hashlib.sha256(b"control " + secret).hexdigest()
