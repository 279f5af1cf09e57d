"""The connection to a Ray cluster, for all that runs there."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

from keras_resnet.errors import Error, RayError


def missing(argument: str) -> Error:
    """The error for an argument that needs the extra `ray`."""
    return RayError(
        f"{argument}: needs Ray and pyarrow; pip install keras-resnet-d[ray]"
    )


@contextlib.contextmanager
def connected(address: str) -> Iterator[Any]:
    """The module `ray`, connected to the cluster at an address.

    Args:
        address: "local" to start Ray on this machine, "auto" for the cluster that this
            machine belongs to, HOST:PORT, or ray://HOST:PORT. A connection that exists
            already is used, and kept.

    Raises:
        RayError: Ray is not installed, or does not answer.
    """
    try:
        import ray
    except ImportError as error:
        raise missing(f"ray={address!r}") from error
    if ray.is_initialized():
        yield ray
        return
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, ValueError, RuntimeError) as error:
        line = str(error).partition("\n")[0]
        raise RayError(
            f"ray={address!r}: {line}; give the address of a cluster"
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def last_line(error: BaseException) -> str:
    """The last line of an error of Ray, after the traceback of its worker."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
