"""The settings of a server: names and limits, each with its unit."""

import re
from dataclasses import dataclass

from keras_resnet.errors import ServeError

_NAME = re.compile(r"[^/:\x00-\x1f]+")  # what fits between /v1/models/ and :predict


@dataclass(frozen=True)
class Settings:
    """How to serve a folder of versions.

    Raises:
        ServeError: a value out of range, or a name that no URL can hold.
    """

    name: str  # in the paths: /v1/models/NAME
    poll: float = 1.0  # seconds between two scans of the folder; 0: only one
    max_batch: int = 32  # rows that are run together
    wait_ms: float = 2.0  # that a request may wait for others to join it
    max_body: int = 32 * 2**20  # bytes of a request
    max_rows: int = 256  # of a request
    max_pixels: int = 25_000_000  # of a picture, by its header
    max_request_pixels: int = 100_000_000  # of a request's pictures, and of a batch's
    max_queue: int = 256  # requests that are read, wait or run; more get a 503
    max_connections: int = 512
    idle_seconds: float = 10.0  # that a connection may bring no request
    body_seconds: float = 30.0  # that a client may take to send a request
    answer_seconds: float = 30.0  # from then to the answer: TensorFlow Serving's
    drain_seconds: float = 30.0  # to stop; 0.8 of it for what is in flight
    hosts: tuple[str, ...] = ()  # more values of Host that `run` answers for

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ServeError(
                f"name={self.name!r}: must be not empty and without / or :"
            )
        for field, value in vars(self).items():
            if field.startswith("max_") and value < 1:
                raise ServeError(f"{field}={value}: must be at least 1")
            if isinstance(value, float | int) and not 0 <= value < float("inf"):
                raise ServeError(f"{field}={value}: must be in [0, inf)")

    @property
    def max_bytes_held(self) -> int:
        """Bytes of all bodies at a time: the queue is bounded in memory too."""
        return 8 * self.max_body
