"""Atomic writes, flushes and locks of files.

If a file system does not support flushes or locks, the functions print a line to
stderr and continue without them.
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

PARTIAL = ".partial."  # the prefix of files that are not complete yet

# errors of network, FUSE or Windows file systems that do not support a call
_REFUSALS = {
    errno.EINVAL,
    errno.ENOLCK,
    errno.ENOSYS,
    errno.ENOTSUP,
    errno.EOPNOTSUPP,
}


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a hidden path to write to, which replaces `path` if no error is raised.

    Each call yields another path, so several processes and threads may write the same
    file concurrently: the last one to finish wins, and readers always see a complete
    file.
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
    """Writes a file atomically: a reader sees the old content or the new one."""
    with atomic_write(path) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)


def unique(path: Path) -> Path:
    """A unique hidden path next to `path`, with its suffix, which Keras depends on."""
    token = f"{_host()}-{os.getpid()}-{secrets.token_hex(4)}"
    return path.with_name(f"{PARTIAL}{token}.{path.name}")


def _remove_leftovers(path: Path) -> None:
    """Removes partial files of `path` whose process, on this machine, has ended."""
    pattern = f"{PARTIAL}{_host()}-*-*.{glob.escape(path.name)}"
    for leftover in path.parent.glob(pattern):
        # another process may have removed the file, or a user may have named it
        with contextlib.suppress(OSError, ValueError):
            if not _is_running(int(leftover.name.split("-")[1])):
                leftover.unlink()


def _host() -> str:
    """A short hash of this machine's name, since process ids are only valid on it."""
    return hashlib.sha256(platform.node().encode()).hexdigest()[:8]


def _is_running(process: int) -> bool:
    if os.name == "nt":  # there, os.kill would interrupt the process
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it belongs to another user
        pass
    return True


def sha256(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def flush(stream: IO[Any]) -> None:
    """Flushes a file object's buffer, and the system's, to the disk."""
    stream.flush()
    with _tolerated("flush files to the disk", "a power failure may lose data"):
        os.fsync(stream.fileno())


def sync(path: str | os.PathLike[str]) -> None:
    """Flushes a file, or the entries of a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with _tolerated("flush folders to the disk", "a power failure may lose files"):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def lock(file: IO[Any] | int, operation: int) -> bool:
    """Locks an open file with `fcntl.flock`, until it is closed or the process ends.

    Returns:
        Whether the lock was acquired; False if the file system does not support locks.

    Raises:
        BlockingIOError: with LOCK_NB, if another process holds the lock.
    """
    import fcntl  # not on Windows, where the rest of the package works

    with _tolerated("lock files", "do not run two processes in one directory"):
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
