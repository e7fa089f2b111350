"""Workers that share the cells: whoever comes takes the next one that is free, and a failing one stops nobody."""

import contextlib
import json
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax

from experiments.table1 import locks
from experiments.table1.cells import Cell, needs
from experiments.table1.work import Job, do
from gpvae_jax.commands import prepare_jax
from gpvae_jax.files import write_json

POLL_SECONDS = 2.0


class State(NamedTuple):
    """How a cell stands."""

    name: str  # "done", "running", "failed" or "waiting"
    pid: int | None = None  # of the worker, while running
    since: float = 0.0  # when that began, seconds of the epoch
    reason: str = ""  # of a failure


def state(job: Job, cell: Cell, started: float) -> State:
    """What the files say. A failure from before `started` no longer counts: it is tried again."""
    if job.result(cell).is_file():
        return State("done")
    lock, failure = lock_of(job, cell), _failure(job, cell)
    if locks.is_held(lock):
        with contextlib.suppress(FileNotFoundError):
            return State("running", locks.holder(lock), lock.stat().st_mtime)
    with contextlib.suppress(FileNotFoundError):
        if failure.stat().st_mtime >= started:
            return State("failed", reason=json.loads(failure.read_text())["reason"])
    return State("waiting")


def work(job: Job, cells: list[Cell], started: float, wanted: Callable[[], bool] = lambda: True) -> None:
    """Do the cells, each as soon as what it needs is done, until all are done or have failed, or `wanted` says no."""
    prepare_jax()
    while wanted() and any(state(job, cell, started).name in ("waiting", "running") for cell in cells):
        if not any(_attempt(job, cell, started, wanted) for cell in cells):
            time.sleep(POLL_SECONDS)  # others are busy with what the rest needs


def worker(job: Job, cells: list[Cell], started: float, number: int) -> None:
    """`work` in a process of its own, for as long as its parent lives; on a CPU, on one core."""
    parent, asked = os.getppid(), threading.Event()

    def stop(number: int, frame: object) -> None:
        asked.set()  # for whoever turns the exception into one of his own
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    if job.budget.startswith("gpu"):
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # its memory is for all workers
    elif hasattr(os, "sched_setaffinity"):
        # one core: XLA divides a matrix product by their number, and with it changes the rounding, so that only with
        # the same number a start that is trained again is the same to the last bit
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[number % len(cores)]})
    with contextlib.suppress(KeyboardInterrupt):
        work(job, cells, started, wanted=lambda: not asked.is_set() and os.getppid() == parent)


def fail(job: Job, cell: Cell, reason: str, trace: str = "") -> None:
    """Record why a cell could not be done."""
    _failure(job, cell).parent.mkdir(parents=True, exist_ok=True)
    write_json(_failure(job, cell), {"reason": " ".join(reason.split()), "traceback": trace.splitlines()})


def _attempt(job: Job, cell: Cell, started: float, wanted: Callable[[], bool]) -> bool:
    """Do this cell if it is free, or note that it cannot be done; False where there was nothing to do.

    What goes wrong when the work is no longer `wanted` is the stop's doing, not the cell's.
    """
    if state(job, cell, started).name != "waiting":
        return False
    needed = {other: state(job, other, started) for other in needs(cell)}
    for other, found in needed.items():
        if found.name == "failed":
            fail(job, cell, f"It needs {other.name}, which failed.")
            return True
    if any(found.name != "done" for found in needed.values()):
        return False
    with locks.held(lock_of(job, cell)) as mine:
        if not mine or job.result(cell).is_file():
            return False
        try:
            do(job, cell)
            _failure(job, cell).unlink(missing_ok=True)
        except Exception as error:  # whatever it is, the other cells go on
            if wanted():
                fail(job, cell, f"{type(error).__name__}: {error}", traceback.format_exc())
        jax.clear_caches()  # every cell has programs of its own
    return True


def lock_of(job: Job, cell: Cell) -> Path:
    """The file that says whose the cell is."""
    return job.folder(cell).with_suffix(".lock")


def _failure(job: Job, cell: Cell) -> Path:
    return job.folder(cell).with_suffix(".failed.json")
