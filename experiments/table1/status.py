"""How long cells take, and how the queue stands."""

import json
import math
import statistics
import time
from collections.abc import Mapping

from rich.table import Table

from experiments.table1.cells import BY_TITLE, CHOICE_LATENTS, Cell, candidates
from experiments.table1.queue import State, state
from experiments.table1.work import Job
from gpvae_jax.data import DATASETS

OVERHEAD = 25.0  # seconds per run: reading, compiling, timing inference
PIXELS = 28 * 28


def assumed_seconds(job: Job, cell: Cell) -> float:
    """What a cell should take on one core, by the first measurements: training, bounds, and what every run costs."""
    scale, spec = job.scale, DATASETS[cell.data]
    size = (400 * math.prod(spec.shape) + 400**2) / (400 * PIXELS + 400**2)  # of a 400-400 network
    images = min(scale.train_examples or spec.counts[0], spec.counts[0]) * scale.num_seeds
    epoch = images * size / scale.images_per_second
    bounds = scale.bound_seconds * size * scale.num_seeds
    if cell.kind == "start":
        return scale.start_epochs * epoch + OVERHEAD
    if cell.kind == "choice":
        row = next(row for row in BY_TITLE.values() if row.family == cell.title)
        trial = scale.trial_epochs * row.cost * epoch + bounds * scale.trial_examples * scale.num_samples[0] + OVERHEAD
        return len(candidates(cell.title)) * trial
    row = BY_TITLE[cell.title]
    scratch = row.own_shapes or not (scale.warm or row.family == "recmix")
    epochs = scale.epochs + (scale.start_epochs if scratch else 0)
    examples = min(scale.test_examples or spec.counts[2], spec.counts[2])
    return epochs * row.cost * epoch + bounds * examples * sum(scale.num_samples) + OVERHEAD


def estimates(job: Job, cells: list[Cell]) -> dict[Cell, float]:
    """Seconds per cell: assumed, times what finished cells of the same title, else of any, took against it."""
    ratios: dict[str, list[float]] = {}
    for path in (job.results / job.budget).glob("*/*.json"):
        found = json.loads(path.read_text())
        cell = Cell(**found["cell"])
        ratios.setdefault(cell.title, []).append(found["seconds"] / assumed_seconds(job, cell))
    overall = statistics.median([r for values in ratios.values() for r in values]) if ratios else 1.0
    typical = {title: statistics.median(values) for title, values in ratios.items()}
    return {cell: assumed_seconds(job, cell) * typical.get(cell.title, overall) for cell in cells}


def states(job: Job, cells: list[Cell], started: float) -> dict[Cell, State]:
    """How every cell stands."""
    return {cell: state(job, cell, started) for cell in cells}


def live_table(job: Job, now: Mapping[Cell, State], seconds: Mapping[Cell, float], workers: int) -> Table:
    """A row per table of results: its cells done, running, failed and left; below, what runs, and the time left."""
    total = sum(_left(cell, now[cell], seconds) for cell in now)
    columns = ("table", "done", "running", "failed", "left", "hours left")
    table = Table(*columns, title=f"Table 1 at scale {job.budget}", caption_justify="left")
    for group in dict.fromkeys(cell.group for cell in now):
        mine = [cell for cell in now if cell.group == group]
        counts = [sum(now[cell].name == name for cell in mine) for name in ("done", "running", "failed", "waiting")]
        hours = sum(_left(cell, now[cell], seconds) for cell in mine) / 3600
        table.add_row(group, *map(str, counts), f"{hours:.1f}")
    running = [
        f"{cell.name} (process {found.pid}): {_progress(job, cell)}, {(time.time() - found.since) / 60:.0f} of about "
        f"{seconds[cell] / 60:.0f} min"
        for cell, found in now.items()
        if found.name == "running"
    ]
    table.caption = "\n".join(
        [*running, f"{total / 3600:.1f} hours of work left, {total / 3600 / workers:.1f} of time"]
    )
    return table


def plan(now: Mapping[Cell, State], seconds: Mapping[Cell, float]) -> Table:
    """Every cell in the order in which it will be done, with its state, its time, and the time until then."""
    table = Table("", "cell", "state", "minutes", "hours in all", title="on one worker of one core")
    total = 0.0
    for number, (cell, found) in enumerate(now.items(), start=1):
        total += _left(cell, found, seconds)
        table.add_row(str(number), cell.name, found.name, f"{seconds[cell] / 60:.1f}", f"{total / 3600:.1f}")
    return table


def _left(cell: Cell, found: State, seconds: Mapping[Cell, float]) -> float:
    if found.name == "running":
        return max(0.0, seconds[cell] - (time.time() - found.since))
    return seconds[cell] if found.name == "waiting" else 0.0


def _progress(job: Job, cell: Cell) -> str:
    """Epochs behind it."""
    folder = job.folder(cell)
    if cell.kind == "choice":
        begun = [f for f in folder.glob("*") if f.is_dir()]
        return f"trial {max(1, len(begun))} of {len(candidates(cell.title))} at {CHOICE_LATENTS} latents"
    path = folder / "metrics.jsonl"
    return f"{len(path.read_text().splitlines()) if path.is_file() else 0} epochs done"
