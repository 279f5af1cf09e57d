"""The server as an ASGI application: REST paths, start page, health and metrics."""

import contextlib
import importlib.resources

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from keras_resnet.serve.admission import Admission
from keras_resnet.serve.gate import Gate
from keras_resnet.serve.metrics import CONTENT_TYPE, Metrics
from keras_resnet.serve.requests import RequestError
from keras_resnet.serve.rest import Rest
from keras_resnet.serve.versions import Versions

_EVERY = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
_PAGE_HEADERS = {
    # the page is whole in itself, and asks nobody but this server
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; img-src blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}


def create(folder, settings, metrics=None, versions=None, names=None):
    """The application that serves the newest version in `folder`.

    While its lifespan runs it looks for versions; `versions` are given by one who has
    looked before, and then need `metrics`. Its `state.end()` refuses what is under way,
    ends what runs for it, and refuses what still comes.

    Args:
        names: of hosts, as Gate wants them.
    """
    metrics = metrics or Metrics()
    versions = versions or Versions(folder, settings, metrics)
    rest = Rest(versions, settings, metrics, Admission(settings, metrics.queue))
    page = importlib.resources.files("keras_resnet.serve").joinpath("page.html")

    @contextlib.asynccontextmanager
    async def lifespan(app):
        await versions.start()
        try:
            yield
        finally:
            await versions.stop()
            rest.close()

    def end():
        rest.end()
        versions.end()

    async def start_page(request):
        return HTMLResponse(page.read_text("utf8"), headers=_PAGE_HEADERS)

    async def health(request):
        current = versions.current
        facts = {
            "status": "available" if current else "unavailable",
            "model": settings.name,
            "version": str(current.number) if current else None,
            "max_body": settings.max_body,
            "max_pixels": settings.max_pixels,
        }
        return JSONResponse(facts, 200 if current else 503)

    async def counters(request):
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
            Exception: _own_error,
        },
        lifespan=lifespan,
        middleware=[Middleware(Gate, names=names)],
    )
    application.state.end = end
    return application


async def _http_error(request, error):
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


async def _request_error(request, error):
    # what is left of a body that was not read to its end is not the next request
    closes = error.status in (408, 413, 503)
    headers = {"Connection": "close"} if closes else None
    return JSONResponse({"error": str(error)}, error.status, headers)


async def _own_error(request, error):
    return JSONResponse({"error": "the server failed; its log says how"}, 500)
