"""HTTP connections with limits on their number and on idle time."""

import asyncio
import http
import json
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from keras_resnet.serve.settings import Settings

_LINGER = 1.0  # seconds for a client to read an error before the connection closes


class Connection(H11Protocol):
    """An HTTP/1.1 connection of uvicorn with limits on idle time and on their number.

    uvicorn limits only the idle time after an answer. This class closes a connection if
    the client does not send the complete head of a request, or does not read an answer,
    for `idle_seconds`; sending a few bytes at a time does not extend the limit. When
    there are more than `max_connections`, the one that has been idle longest is closed;
    if none is idle, the new one gets a 503.

    Args:
        settings: max_connections and idle_seconds are used.
        options: the arguments of uvicorn's class.
    """

    def __init__(self, settings: Settings, **options: Any) -> None:
        super().__init__(**options)
        self._settings = settings
        self._timer: asyncio.TimerHandle | None = None
        self._is_lost = self._is_writing_paused = self._is_refused = False
        self.idle_since = self.loop.time()

    @property
    def is_idle(self) -> bool:
        """Whether no request is being answered."""
        return self.cycle is None or self.cycle.response_complete

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._watch()
        if len(self.connections) > self._settings.max_connections:
            idle = [
                other
                for other in self.connections
                if isinstance(other, Connection) and other.is_idle and other is not self
            ]
            if idle:
                min(idle, key=lambda other: other.idle_since).drop()
            else:
                self._refuse(503, "too many connections: try again later")

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_lost = True
        self._watch()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._is_refused:
            return
        was_idle = self.is_idle
        super().data_received(data)
        if was_idle != self.is_idle:
            self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._is_writing_paused = True
        self._watch()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._is_writing_paused = False
        self._watch()

    def drop(self) -> None:
        """Closes the connection immediately and discards unsent data."""
        self.connections.discard(self)
        self.transport.abort()

    def send_400_response(self, msg: str) -> None:
        """Answers invalid HTTP with an error in JSON; called by uvicorn."""
        self._refuse(400, msg)

    def _watch(self) -> None:
        """Restarts or stops the idle timer, as the state of the connection requires."""
        if self._timer:
            self._timer.cancel()
            self._timer = None
        if not self._is_lost and (self.is_idle or self._is_writing_paused):
            self.idle_since = self.loop.time()
            self._timer = self.loop.call_later(self._settings.idle_seconds, self.drop)

    def _refuse(self, status: int, message: str) -> None:
        body = json.dumps({"error": message}).encode()
        head = (
            f"HTTP/1.1 {status} {http.HTTPStatus(status).phrase}\r\n"
            "content-type: application/json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        # not close(), which resets a connection with unread bytes and loses the answer
        self.transport.write_eof()
        self._is_refused = True
        self.connections.discard(self)
        self.loop.call_later(_LINGER, self.transport.abort)


def bounded(settings: Settings) -> type[Connection]:
    """Returns a subclass of Connection with these settings, for uvicorn."""

    class Bounded(Connection):
        def __init__(self, **options: Any) -> None:
            super().__init__(settings, **options)

    return Bounded
