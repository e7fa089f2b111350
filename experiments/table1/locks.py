"""One worker per cell: a lock file with the worker's process id, which the kernel frees when the worker dies."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def held(path: Path) -> Iterator[bool]:
    """Whether this process now holds the lock at `path`; given back, and the file removed, on the way out.

    The file of a dead process is no obstacle: what counts is the kernel's lock on it, which died with the process.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        if not _is_still_at(descriptor, path):  # its holder removed it between our opening and our locking
            yield False
            return
        os.ftruncate(descriptor, 0)
        os.write(descriptor, str(os.getpid()).encode())
        try:
            yield True
        finally:
            path.unlink()
    finally:
        os.close(descriptor)


def holder(path: Path) -> int | None:
    """The process id in a lock file, None where there is none."""
    with contextlib.suppress(FileNotFoundError, ValueError):
        return int(path.read_text())
    return None


def is_held(path: Path) -> bool:
    """Whether some process holds the lock at `path` now, by the kernel: a process id may have passed to another."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _is_still_at(descriptor: int, path: Path) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(descriptor), path.stat())
    return False
