"""Refuses requests with an unknown Host header or an ambiguous length.

A malicious web site can make its own host name resolve to this machine, and then read
the answers of servers on it (DNS rebinding). The Host header of such requests has the
name of that site. A request with both Content-Length and Transfer-Encoding may be one
request to this server but two requests to a proxy (request smuggling).
"""

import ipaddress
import urllib.parse
from collections.abc import Collection, Iterable

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from keras_resnet.serve.requests import brief


class Gate:
    """ASGI middleware that refuses such requests.

    Args:
        app: the application to protect.
        names: the host names that are accepted in the Host header. IP addresses are
            always accepted, because DNS rebinding needs a name. None: accept any host,
            for example behind a proxy that checks it.
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
        host = given.get(b"host")  # missing in HTTP/1.0, which browsers do not use
        if self._names is None or host is None:
            return None
        name = _name(host.decode("latin1"))
        if _is_address(name) or _plain(name) in self._names:
            return None
        message = brief(
            "this Host is not allowed; to allow it, start `keras-resnet serve` with "
            f"--allow-host: {host.decode('latin1')!r}"
        )
        return JSONResponse({"error": message}, 403, closing)


def _name(host: str) -> str:
    """Returns the host without its port; empty if the header is invalid."""
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
