"""What a server is told: names and limits, each with its unit."""

import re
from dataclasses import dataclass

_NAME = re.compile(r"[^/:\x00-\x1f]+")  # what fits between /v1/models/ and :predict


class ServeError(Exception):
    """A server that cannot start, in one line."""


@dataclass(frozen=True)
class Settings:
    """How to serve a folder of versions.

    Raises:
        ServeError: a value out of range, or a name that no URL can hold.
    """

    name: str  # in the paths: /v1/models/NAME
    poll: float = 1.0  # seconds between two looks at the folder; 0: only one
    max_batch: int = 32  # rows that are run together
    wait_ms: float = 2.0  # that a request may wait for others to join it
    max_body: int = 32 * 2**20  # bytes of a request
    max_rows: int = 256  # of a request
    max_pixels: int = 25_000_000  # of a picture, by its header
    max_queue: int = 256  # requests that are read, wait or run; more get a 503
    body_seconds: float = 30.0  # that a client may take to send a request
    drain_seconds: float = 30.0  # for what is in flight when the server is stopped

    def __post_init__(self):
        if not _NAME.fullmatch(self.name):
            raise ServeError(
                f"name={self.name!r}: must have no / or : and not be empty"
            )
        for field in ("max_batch", "max_body", "max_rows", "max_pixels", "max_queue"):
            if getattr(self, field) < 1:
                raise ServeError(f"{field}={getattr(self, field)}: must be at least 1")
        for field in ("poll", "wait_ms", "body_seconds", "drain_seconds"):
            if not 0 <= getattr(self, field) < float("inf"):
                raise ServeError(f"{field}={getattr(self, field)}: must be in [0, inf)")

    @property
    def max_bytes_held(self):
        """Bytes of all bodies at a time: the queue is bounded in memory too."""
        return 8 * self.max_body
