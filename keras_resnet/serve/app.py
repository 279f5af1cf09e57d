"""The ASGI application of a server: REST API, start page, health and metrics."""

import contextlib
import importlib.resources
from collections.abc import AsyncIterator, Collection
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from keras_resnet.serve.gate import Gate
from keras_resnet.serve.metrics import CONTENT_TYPE
from keras_resnet.serve.requests import RequestError
from keras_resnet.serve.rest import Rest
from keras_resnet.serve.versions import Versions

_EVERY = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
_PAGE_HEADERS = {
    # the page loads nothing from other servers
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; img-src blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}


def create(versions: Versions, host_names: Collection[str] | None = None) -> Starlette:
    """Returns the application that serves the current one of `versions`.

    During its lifespan, it polls for new versions. Its `state.end()` stops the runs of
    current requests, and answers all current and future requests with a 503.

    Args:
        versions: the versions of a model; the lifespan starts and stops their polling.
        host_names: the accepted values of the Host header, see `Gate`.
    """
    settings, metrics, rest = versions.settings, versions.metrics, Rest(versions)
    page = importlib.resources.files("keras_resnet.serve").joinpath("page.html")

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        await versions.start()
        try:
            yield
        finally:
            await versions.stop()
            rest.close()

    def end() -> None:
        rest.end()
        versions.end()

    async def start_page(request: Request) -> Response:
        return HTMLResponse(page.read_text("utf8"), headers=_PAGE_HEADERS)

    async def health(request: Request) -> Response:
        current = versions.current
        content = {
            "status": "available" if current else "unavailable",
            "model": settings.name,
            "version": str(current.number) if current else None,
            "max_body": settings.max_body,
            "max_pixels": settings.max_pixels,
        }
        return JSONResponse(content, 200 if current else 503)

    async def counters(request: Request) -> Response:
        return Response(metrics.text(), headers={"Content-Type": CONTENT_TYPE})

    application = Starlette(
        routes=[
            Route("/", start_page),
            Route("/health", health),
            Route("/metrics", counters),
            Route("/monitoring/prometheus/metrics", counters),
            Route("/v1/{path:path}", rest.answer, methods=_EVERY),
        ],
        exception_handlers={
            HTTPException: _http_error,
            RequestError: _request_error,
            Exception: _server_error,
        },
        lifespan=lifespan,
        middleware=[Middleware(Gate, names=host_names)],
    )
    application.state.end = end
    return application


async def _http_error(request: Request, error: Any) -> Response:
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


async def _request_error(request: Request, error: Any) -> Response:
    # an unread rest of the body must not be taken for the next request
    closes = error.status in (408, 413, 503)
    headers = {"Connection": "close"} if closes else None
    return JSONResponse({"error": str(error)}, error.status, headers)


async def _server_error(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": "internal error; see the log of the server"}, 500)
