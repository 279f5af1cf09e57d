"""Writing files completely or not at all; flushes and locks.

A file system that refuses a flush or a lock costs a line on stderr, and work goes on.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import glob
import hashlib
import os
import platform
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

PARTIAL = ".partial."  # begins the name of a file that is not complete yet

# errors of network, FUSE or Windows-backed file systems that have no such call
_REFUSALS = {
    errno.EINVAL,
    errno.ENOLCK,
    errno.ENOSYS,
    errno.ENOTSUP,
    errno.EOPNOTSUPP,
}


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A context with a hidden path beside `path`, which replaces it if no error occurs.

    Each call has its own path, so that several processes may write the same file: the
    last one wins, and a reader always sees a complete file.
    """
    path = Path(path)
    _remove_leftovers(path)
    partial = unique(path)
    try:
        yield partial
        sync(partial)
        os.replace(partial, path)
    except BaseException:  # Ctrl-C too
        partial.unlink(missing_ok=True)
        raise
    sync(path.parent)


def write_whole(path: Path, content: str | bytes) -> None:
    """Writes a file aside, flushes it, and renames it into place."""
    with atomic_write(path) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)


def unique(path: Path) -> Path:
    """A unique hidden name beside `path`, with its ending, which Keras needs."""
    token = f"{_host()}-{os.getpid()}-{secrets.token_hex(4)}"
    return path.with_name(f"{PARTIAL}{token}.{path.name}")


def _remove_leftovers(path: Path) -> None:
    """Removes unfinished files of `path` that killed processes of this machine left."""
    pattern = f"{PARTIAL}{_host()}-*-*.{glob.escape(path.name)}"
    for leftover in path.parent.glob(pattern):
        with contextlib.suppress(OSError, ValueError):  # gone, or named by another
            if not _is_running(int(leftover.name.split("-")[1])):
                leftover.unlink()


def _host() -> str:
    """A short name of this machine, since process numbers differ between machines."""
    return hashlib.sha256(platform.node().encode()).hexdigest()[:8]


def _is_running(process: int) -> bool:
    if os.name == "nt":  # where this would interrupt it
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        pass
    return True


def sha256(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def flush(stream: IO[Any]) -> None:
    """Writes the buffers of a file object and of the system to the disk."""
    stream.flush()
    with _tolerated("flush files to the disk", "a power failure may lose the newest"):
        os.fsync(stream.fileno())


def sync(path: str | os.PathLike[str]) -> None:
    """Flushes a file, or the entries of a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with _tolerated("flush folders to the disk", "a power failure may lose names"):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def lock(file: IO[Any] | int, operation: int) -> bool:
    """Locks an open file by `fcntl.flock`, which ends with the process.

    Returns:
        Whether it is locked; False if the file system has no locks.

    Raises:
        BlockingIOError: with LOCK_NB, another process holds it.
    """
    import fcntl  # not on Windows, where the rest of the package works

    with _tolerated("lock files", "let no two processes write to one directory"):
        fcntl.flock(file, operation)
        return True
    return False


@contextlib.contextmanager
def _tolerated(what: str, consequence: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _REFUSALS:
            raise
        _print_once(f"this file system cannot {what} ({error.strerror}): {consequence}")


@functools.cache
def _print_once(line: str) -> None:
    print(line, file=sys.stderr)
