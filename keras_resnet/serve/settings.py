"""The settings of a server: names and limits."""

import re
from dataclasses import dataclass

from keras_resnet.errors import ServeError

_NAME = re.compile(r"[^/:\x00-\x1f]+")  # may stand between /v1/models/ and :predict


@dataclass(frozen=True)
class Settings:
    """The settings of a server.

    Raises:
        ServeError: a value is out of range, or the name cannot be part of a URL path.
    """

    name: str  # of the model, as in /v1/models/NAME
    poll: float = 1.0  # seconds between scans of the folder for versions; 0: scan once
    max_batch: int = 32  # rows of a batch
    wait_ms: float = 2.0  # milliseconds that a request waits for others to join it
    max_body: int = 32 * 2**20  # bytes of a request
    max_rows: int = 256  # rows of a request
    max_pixels: int = 25_000_000  # pixels of an image, by its header
    max_request_pixels: int = 100_000_000  # pixels of a request, and of a batch
    max_queue: int = 256  # requests that are read, wait or run; others get a 503
    max_connections: int = 512
    idle_seconds: float = 10.0  # that a connection may stay open without a request
    body_seconds: float = 30.0  # for a client to send a request
    answer_seconds: float = 30.0  # from then to the answer; as in TensorFlow Serving
    drain_seconds: float = 30.0  # for the server to stop; requests get 0.8 of it
    hosts: tuple[str, ...] = ()  # further values of the Host header to accept

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ServeError(f"name={self.name!r}: must not be empty or contain / or :")
        for field, value in vars(self).items():
            if field.startswith("max_") and value < 1:
                raise ServeError(f"{field}={value}: must be at least 1")
            if isinstance(value, float | int) and not 0 <= value < float("inf"):
                raise ServeError(f"{field}={value}: must be in [0, inf)")

    @property
    def max_bytes_held(self) -> int:
        """The maximum of bytes in the bodies of all current requests."""
        return 8 * self.max_body
