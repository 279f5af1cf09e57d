"""Runs the server on a port until SIGTERM or SIGINT."""

import asyncio
import contextlib
import ctypes
import dataclasses
import ipaddress
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable
from typing import NoReturn

import uvicorn

from keras_resnet.errors import ServeError
from keras_resnet.serve.app import create
from keras_resnet.serve.connections import bounded
from keras_resnet.serve.production import ENVIRONMENT
from keras_resnet.serve.settings import Settings
from keras_resnet.serve.versions import Versions

_ARENAS = 2  # of glibc's malloc
_M_ARENA_MAX = -8  # from malloc.h
_TRIM_SECONDS = 5.0
_FILES = 128  # file descriptors that a server needs besides its connections, at most
# parts of drain_seconds, after which requests are refused and the process exits; the
# rest is for the shutdown of the interpreter
_REFUSED, _LEFT = 0.8, 0.9

log = logging.getLogger(__name__)


class _Server(uvicorn.Server):
    """uvicorn's server, with a limit on the time to stop.

    Args:
        config: uvicorn's configuration.
        seconds: the time limit.
        end: a function that ends and refuses all requests.
    """

    def __init__(
        self, config: uvicorn.Config, seconds: float, end: Callable[[], object]
    ) -> None:
        super().__init__(config)
        self._seconds, self._end = seconds, end

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # a run that never returns can be ended only by the end of the process
        last = threading.Timer(_LEFT * self._seconds, _leave)
        last.daemon = True
        last.start()
        loop = asyncio.get_running_loop()
        ending = loop.call_later(_REFUSED * self._seconds, self._end)
        await super().shutdown(sockets)
        ending.cancel()
        if self.force_exit:  # a second Ctrl-C
            self._end()
        else:
            last.cancel()


def _leave() -> NoReturn:
    log.error("some requests did not end in time; stopped without them")
    os._exit(0)


def run(
    folder: str | os.PathLike[str],
    settings: Settings,
    host: str,
    port: int,
    announce: Callable[[str, int], object],
) -> None:
    """Serves until SIGTERM or SIGINT, then waits for current requests and returns.

    See `keras_resnet.serve.run` for the arguments.

    Raises:
        ServeError: the port is not available, or no version can be loaded.
    """
    listening = _listen(host, port)
    os.environ.update(ENVIRONMENT | os.environ)
    with listening:
        settings = dataclasses.replace(settings, hosts=(host, *settings.hosts))
        asyncio.run(_serve(folder, settings, listening, announce))


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=1024)
    except OSError as error:
        raise ServeError(
            f"port={port}: {error.strerror or error} on {host}; give another --port"
        ) from error
    except OverflowError as error:
        raise ServeError(f"port={port}: must be in [0, 65535]") from error


async def _serve(
    folder: str | os.PathLike[str],
    settings: Settings,
    listening: socket.socket,
    announce: Callable[[str, int], object],
) -> None:
    versions = Versions(folder, settings)
    app = create(versions, _host_names(listening, settings))
    config = uvicorn.Config(
        app,
        http=bounded(_within_limits(settings)),
        ws="none",
        log_config=None,
        log_level="error",
        access_log=False,
        lifespan="on",
        timeout_keep_alive=max(1, round(settings.idle_seconds)),
        timeout_graceful_shutdown=max(1, round(settings.drain_seconds)),
    )
    server = _Server(config, settings.drain_seconds, app.state.end)
    # before loading, so that signals work meanwhile; uvicorn raises the signals again
    # when it has stopped, and Python's own handlers would then kill the process
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, server.handle_exit)
    trimming = asyncio.create_task(_trim())
    await versions.poll()
    if not versions.current:
        await versions.stop()
        raise ServeError(_reason(folder, versions))
    announce(_url(listening), versions.current.number)
    await server.serve(sockets=[listening])
    trimming.cancel()


async def _trim() -> None:
    """Returns freed memory to the operating system periodically.

    Images of different sizes fragment the arenas of glibc's malloc, which by default
    has eight per core, so that the memory of the process would grow for hours.
    """
    with contextlib.suppress(OSError, AttributeError):  # the C library is not glibc
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(_M_ARENA_MAX, _ARENAS)
        while True:
            await asyncio.sleep(_TRIM_SECONDS)
            await asyncio.to_thread(libc.malloc_trim, 0)


def _reason(folder: str | os.PathLike[str], versions: Versions) -> str:
    for entry in versions.statuses():
        message = entry["status"]["error_message"]
        return f"{folder}: version {entry['version']} cannot be loaded: {message}"
    return f"{folder}: all versions were deleted; export one again"


def _url(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _host_names(listening: socket.socket, settings: Settings) -> set[str]:
    """Returns the names that are accepted in the Host header, besides IP addresses."""
    host, names = listening.getsockname()[0], {"localhost", *settings.hosts}
    if not ipaddress.ip_address(host.partition("%")[0]).is_loopback:
        names.add(socket.gethostname())
    return names


def _within_limits(settings: Settings) -> Settings:
    """Raises the limit on open files to fit max_connections, or lowers the latter."""
    try:
        import resource
    except ModuleNotFoundError:  # on Windows, which has no such limit
        return settings
    wanted = settings.max_connections + _FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted and soft != resource.RLIM_INFINITY:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        most = min(settings.max_connections, max(1, soft - _FILES))
        return dataclasses.replace(settings, max_connections=most)
    return settings
