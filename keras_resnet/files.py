"""Files that are whole or not there; flushes and locks, where the file system has them.

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
    """A hidden path beside `path`, which takes its place when all went well.

    It is another one at each call, so that processes and threads may write one file at
    a time: the last to end wins, and a reader sees a whole file always.
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
    """Writes a file aside, flushes it to the disk and renames it into place."""
    with atomic_write(path) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)


def unique(path: Path) -> Path:
    """A hidden name beside `path` that no other call gets; Keras minds the ending."""
    token = f"{_host()}-{os.getpid()}-{secrets.token_hex(4)}"
    return path.with_name(f"{PARTIAL}{token}.{path.name}")


def _remove_leftovers(path: Path) -> None:
    """Removes what processes of this machine left of `path` when they were killed."""
    pattern = f"{PARTIAL}{_host()}-*-*.{glob.escape(path.name)}"
    for leftover in path.parent.glob(pattern):
        with contextlib.suppress(OSError, ValueError):  # gone, or named by another
            if not _is_running(int(leftover.name.split("-")[1])):
                leftover.unlink()


def _host() -> str:
    """This machine in few letters: a process's number says nothing on another."""
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


def flush(stream: IO[Any]) -> None:
    """Writes a file object's buffer, and the system's, to the disk."""
    stream.flush()
    with _tolerated("flush files to the disk", "a power failure may lose the newest"):
        os.fsync(stream.fileno())


def sync(path: str | os.PathLike[str]) -> None:
    """Flushes a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with _tolerated("flush folders to the disk", "a power failure may lose names"):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def lock(file: IO[Any] | int, operation: int) -> bool:
    """Takes `fcntl.flock` of an open file, which any death of the process frees.

    Returns:
        Whether it was taken; False where the file system has no locks.

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
