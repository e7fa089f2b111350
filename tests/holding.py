"""A process that holds a lock until it is killed, in a module that needs no JAX."""

import time
from pathlib import Path

from experiments.table1 import locks


def hold(path: Path) -> None:
    """Hold the lock at `path`; a file beside it says when it is held."""
    with locks.held(path):
        path.with_suffix(".ready").touch()
        time.sleep(60)
