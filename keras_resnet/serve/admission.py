"""Reads request bodies within limits on size, time, their number and memory."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import NoReturn

from prometheus_client import Gauge
from starlette.requests import Request

from keras_resnet.serve.requests import RequestError
from keras_resnet.serve.settings import Settings

# seconds to read a body that is too large, so that the client can read the error
# instead of getting a broken pipe
_LINGER = 1.0


class Admission:
    """Admits requests up to the limits of `settings`, and refuses others.

    Args:
        settings: max_queue, max_body, max_bytes_held and body_seconds are used.
        queue: the gauge to set to the number of current requests.
    """

    def __init__(self, settings: Settings, queue: Gauge) -> None:
        self._settings, self._queue = settings, queue
        self._requests = self._bytes = 0

    @contextlib.asynccontextmanager
    async def body(self, request: Request) -> AsyncIterator[bytes]:
        """Yields the body of a request, which counts towards the limits until the end.

        Raises:
            RequestError: 408 if the body does not arrive in time, 413 if it is too
                large, 503 if there are too many requests or bytes.
            starlette.requests.ClientDisconnect: the client closed the connection.
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
                        message = "too many bytes in the queue: try again later"
                        raise RequestError(503, message)
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
