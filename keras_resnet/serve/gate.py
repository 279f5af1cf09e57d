"""Refuses requests that are meant for another server, or that can be read two ways.

A page of a foreign site can have its own name resolved to this machine, and then read
what a server here answers (DNS rebinding); the Host header gives it away. And a request
with two lengths is one request to this server, but perhaps two to a proxy.
"""

import ipaddress
import urllib.parse
from collections.abc import Collection, Iterable

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from keras_resnet.serve.requests import brief


class Gate:
    """ASGI middleware.

    Args:
        app: the application behind it.
        names: of the hosts that requests may be for. IP addresses are always allowed,
            since no site can take one for its name. None: any host, as behind a proxy
            that checks it.
    """

    def __init__(self, app: ASGIApp, names: Collection[str] | None) -> None:
        self._app = app
        self._names = names and {_plain(name) for name in names if name}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app: ASGIApp = self._app
        if scope["type"] == "http":
            app = self._refusal(scope["headers"]) or app
        await app(scope, receive, send)

    def _refusal(self, headers: Iterable[tuple[bytes, bytes]]) -> JSONResponse | None:
        given = dict(headers)
        closing = {"Connection": "close"}
        if b"transfer-encoding" in given and b"content-length" in given:
            message = "must have either Content-Length or Transfer-Encoding, not both"
            return JSONResponse({"error": message}, 400, closing)
        host = given.get(b"host")  # HTTP/1.0 has none; no browser speaks that
        if self._names is None or host is None:
            return None
        name = _name(host.decode("latin1"))
        if _is_address(name) or _plain(name) in self._names:
            return None
        message = brief(
            "this server answers for no such Host; start `keras-resnet serve` with "
            f"--allow-host if it should: {host.decode('latin1')!r}"
        )
        return JSONResponse({"error": message}, 403, closing)


def _name(host: str) -> str:
    """Without its port; empty for what is not a host."""
    try:
        return urllib.parse.urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _plain(name: str) -> str:
    return name.lower().rstrip(".")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
