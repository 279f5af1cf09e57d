"""Connections that are closed when they are idle, and bounded in number."""

import asyncio
import http
import json
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from keras_resnet.serve.settings import Settings

_LINGER = 1.0  # seconds that a client may take to read that it is refused


class Connection(H11Protocol):
    """uvicorn's HTTP/1.1 with bounds on the number of connections and on idle time.

    uvicorn bounds only the silence after an answer. This closes a connection that for
    `idle_seconds` has not sent a whole head of a request, or has not read what is sent
    to it; bytes that drip in do not prolong this. One connection too many takes the
    place of the one that has been idle longest.

    Args:
        settings: for max_connections and idle_seconds.
        options: uvicorn's.
    """

    def __init__(self, settings: Settings, **options: Any) -> None:
        super().__init__(**options)
        self._settings = settings
        self._timer: asyncio.TimerHandle | None = None
        self._is_lost = self._is_writing_paused = self._is_refused = False
        self.idle_since = self.loop.time()

    @property
    def is_idle(self) -> bool:
        """Whether no request is under way, from its whole head to its whole answer."""
        return self.cycle is None or self.cycle.response_complete

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._watch()
        if len(self.connections) > self._settings.max_connections:
            others = [it for it in self.connections if isinstance(it, Connection)]
            idle = [it for it in others if it.is_idle and it is not self]
            if idle:
                min(idle, key=lambda it: it.idle_since).drop()
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
        """Closes at once, whatever was still to be sent."""
        self.connections.discard(self)
        self.transport.abort()

    def send_400_response(self, msg: str) -> None:
        """Answers what is not HTTP, for uvicorn, in JSON as all errors are."""
        self._refuse(400, msg)

    def _watch(self) -> None:
        """Starts the timer, or stops it, by the state of the connection."""
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
        # closing with unread bytes would reset the connection, and lose the answer
        self.transport.write_eof()
        self._is_refused = True
        self.connections.discard(self)
        self.loop.call_later(_LINGER, self.transport.abort)


def bounded(settings: Settings) -> type[Connection]:
    """The class of Connections with these settings, which uvicorn instantiates."""

    class Bounded(Connection):
        def __init__(self, **options: Any) -> None:
            super().__init__(settings, **options)

    return Bounded
