"""Reads the bodies of requests within limits of size, time, number and memory."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import NoReturn

from prometheus_client import Gauge
from starlette.requests import Request

from keras_resnet.serve.requests import RequestError
from keras_resnet.serve.settings import Settings

# seconds to read what is sent beyond the limit, so that the client sees the refusal
# and not a broken pipe
_LINGER = 1.0


class Admission:
    """Lets in as many requests, and bytes of them, as `settings` allow at a time."""

    def __init__(self, settings: Settings, queue: Gauge) -> None:
        self._settings, self._queue = settings, queue
        self._requests = self._bytes = 0

    @contextlib.asynccontextmanager
    async def body(self, request: Request) -> AsyncIterator[bytes]:
        """The bytes of a request's body; until this ends they count as held.

        Raises:
            RequestError: 408, 413 or 503.
            starlette.requests.ClientDisconnect
        """
        if self._requests >= self._settings.max_queue:
            raise RequestError(503, "the queue is full: try again later")
        chunks: list[bytes] = []
        self._requests += 1
        self._queue.set(self._requests)
        try:
            yield await self._read(request, chunks)
        finally:
            self._requests -= 1
            self._bytes -= sum(map(len, chunks))
            self._queue.set(self._requests)

    async def _read(self, request: Request, chunks: list[bytes]) -> bytes:
        limit, size = self._settings.max_body, 0
        stream = request.stream()
        announced = request.headers.get("content-length", "")
        if announced.isdecimal() and len(announced) < 20 and int(announced) > limit:
            await self._too_large(stream)
        try:
            async with asyncio.timeout(self._settings.body_seconds):
                async for chunk in stream:
                    size += len(chunk)
                    if size > limit:
                        break
                    if self._bytes + len(chunk) > self._settings.max_bytes_held:
                        raise RequestError(503, "too many bytes wait: try again later")
                    chunks.append(chunk)
                    self._bytes += len(chunk)
        except TimeoutError:
            seconds = self._settings.body_seconds
            message = f"the body did not arrive within {seconds:g} s"
            raise RequestError(408, message) from None
        if size > limit:
            await self._too_large(stream)
        return b"".join(chunks)

    async def _too_large(self, stream: AsyncIterator[bytes]) -> NoReturn:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LINGER):
                async for _ in stream:
                    pass
        limit = self._settings.max_body
        raise RequestError(413, f"the body is too large: at most {limit} bytes")
