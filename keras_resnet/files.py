"""Flushes and locks, also on file systems that refuse them: then a line, and on."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import sys

# what a network, FUSE or Windows-backed file system answers that has no such call
_REFUSALS = {
    errno.EINVAL,
    errno.ENOLCK,
    errno.ENOSYS,
    errno.ENOTSUP,
    errno.EOPNOTSUPP,
}


def flush(stream) -> None:
    """Writes a file object's buffer, and the system's, to the disk."""
    stream.flush()
    with _tolerated("flush files to the disk", "a power failure may lose the newest"):
        os.fsync(stream.fileno())


def sync(path) -> None:
    """Flushes a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with _tolerated("flush folders to the disk", "a power failure may lose names"):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def lock(file, operation: int) -> bool:
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
def _tolerated(what, consequence):
    try:
        yield
    except OSError as error:
        if error.errno not in _REFUSALS:
            raise
        _print_once(f"this file system cannot {what} ({error.strerror}): {consequence}")


@functools.cache
def _print_once(line):
    print(line, file=sys.stderr)
