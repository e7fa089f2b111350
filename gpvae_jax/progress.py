"""The console, and progress bars that become lines where the output is a file or a pipe."""

import contextlib
import functools
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

console = Console(highlight=False)
say = functools.partial(console.print, soft_wrap=True, markup=False)  # what is in brackets is the text's own


def page(width: int) -> Console:
    """The terminal, or, where the output is a file or a pipe, a page so many characters wide."""
    return console if console.is_terminal else Console(width=width, highlight=False)


STEPS = 100  # of a bar for one piece of work; in a comparison 80 of them are training and 20 evaluation
LINE_SECONDS = 30.0  # between two lines of progress where the output is no terminal


class Bars(Progress):
    """Progress bars; where the output is a file or a pipe, a line every half minute instead."""

    def update(self, task_id: TaskID, **fields: Any) -> None:
        super().update(task_id, **fields)
        now = time.monotonic()
        if not self.console.is_terminal and now - getattr(self, "_last_line", -math.inf) > LINE_SECONDS:
            self._last_line = now
            task = self.tasks[task_id]
            say(f"{task.description} {task.completed:g}/{task.total:g}  {task.fields['text']}")


def bars() -> Progress:
    """A progress bar with the time left and a text of one's own."""
    return Bars(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("elapsed,"),
        TimeRemainingColumn(elapsed_when_finished=False),
        TextColumn("left  {task.fields[text]}", markup=False),
        console=console,
    )


@contextlib.contextmanager
def unit_bar(what: str) -> Iterator[Callable[[float], None]]:
    """A bar that is told the share done, from 0 to 1."""
    with bars() as progress:
        task = progress.add_task(what, total=STEPS, text="")
        yield lambda done: progress.update(task, completed=round(STEPS * done))
