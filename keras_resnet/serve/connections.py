"""Connections that are closed when they are silent, and of which there are so many."""

import http
import json

from uvicorn.protocols.http.h11_impl import H11Protocol

_LINGER = 1.0  # seconds that a client may take to read that it is refused


class Connection(H11Protocol):
    """uvicorn's HTTP/1.1 with bounds on the number of connections and on their rest.

    uvicorn bounds only the silence after an answer. Here a connection is closed that
    for `idle_seconds` has brought no whole head of a request, or has not taken what is
    sent to it; bytes that drip in do not prolong this. One connection too many takes
    the place of that which has rested longest.

    Args:
        settings: Settings, for max_connections and idle_seconds.
        options: uvicorn's.
    """

    def __init__(self, settings, **options):
        super().__init__(**options)
        self._settings, self._timer, self._lost = settings, None, False
        self._is_writing_paused = self._is_refused = False
        self.resting_since = self.loop.time()

    @property
    def is_resting(self):
        """Whether no request is under way, from its whole head to its whole answer."""
        return self.cycle is None or self.cycle.response_complete

    def connection_made(self, transport):
        super().connection_made(transport)
        self._watch()
        if len(self.connections) > self._settings.max_connections:
            others = [it for it in self.connections if isinstance(it, Connection)]
            resting = [it for it in others if it.is_resting and it is not self]
            if resting:
                min(resting, key=lambda it: it.resting_since).drop()
            else:
                self._refuse(503, "too many connections: try again later")

    def connection_lost(self, exc):
        self._lost = True
        self._watch()
        super().connection_lost(exc)

    def data_received(self, data):
        if self._is_refused:
            return
        rested = self.is_resting
        super().data_received(data)
        if rested != self.is_resting:
            self._watch()

    def on_response_complete(self):
        super().on_response_complete()
        self._watch()

    def pause_writing(self):
        super().pause_writing()
        self._is_writing_paused = True
        self._watch()

    def resume_writing(self):
        super().resume_writing()
        self._is_writing_paused = False
        self._watch()

    def drop(self):
        """Closes at once, whatever was still to be sent."""
        self.connections.discard(self)
        self.transport.abort()

    def send_400_response(self, msg):
        """uvicorn calls this for what is no HTTP; as JSON, as all errors are."""
        self._refuse(400, msg)

    def _watch(self):
        """Starts to wait, or stops to, as the connection now is."""
        if self._timer:
            self._timer.cancel()
            self._timer = None
        if not self._lost and (self.is_resting or self._is_writing_paused):
            self.resting_since = self.loop.time()
            self._timer = self.loop.call_later(self._settings.idle_seconds, self.drop)

    def _refuse(self, status, message):
        body = json.dumps({"error": message}).encode()
        head = (
            f"HTTP/1.1 {status} {http.HTTPStatus(status).phrase}\r\n"
            "content-type: application/json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        # closing with bytes unread would reset the connection, and lose the answer
        self.transport.write_eof()
        self._is_refused = True
        self.connections.discard(self)
        self.loop.call_later(_LINGER, self.transport.abort)


def bounded(settings) -> type[Connection]:
    """The Connection of these Settings: uvicorn makes them by itself."""

    class Bounded(Connection):
        def __init__(self, **options):
            super().__init__(settings, **options)

    return Bounded
