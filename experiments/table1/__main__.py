"""The papers' Table 1: test log-likelihood and inference time of every method, data set and number of latents.

    python -m experiments.table1 --dry-run                                  # what there is to do, and how long it takes
    python -m experiments.table1 --datasets mnist omniglot --latents 10 20 --workers 2
    python -m experiments.table1.latency                                    # inference times, when all else is quiet
    python -m experiments.table1.page                                       # experiments/RESULTS.md and the figures

A queue that survives being killed: finished cells are skipped, unfinished runs go on from their last checkpoint, and
the command may be started several times, on one folder, by several workers. What a finished cell leaves is a small
file in experiments/results/table1/; these files are all that another machine needs to go on. Every method's settings
are chosen on validation images in short runs, learning rate included, and the epoch with the best validation bound is
kept. All seeds of a cell train in one program.

Scales (`--budget`):
  cpu  400-400 networks, up to 50,000 training images, 3 seeds. A VAE is trained for 10 epochs with KL warm-up; every
       method starts from it and goes on for 10 epochs (a wider VAE, which cannot, trains for all 20). Bounds on the
       first 500 test images. MNIST and Omniglot with 10 and 20 latents take 17 to 30 hours of one core, the claims'
       rows alone, which come first, a third of it. What it costs: runs of 40 epochs had, after 20 and not yet
       annealed, validation ELBOs lower than at their end by 1.5 (VAE), 1.6 (SAVI), 1.5 (mixture) and 2.0 nats (IAF)
       on MNIST and 1.9 (VAE) on Omniglot, Bernoulli, and by 9 (VAE, GPVAE) on MNIST, Gaussian; annealed runs lose
       less than that.
  cpu-long  the same with twice the epochs, 20 and 20: 1.6 times the time.
  gpu-mlp  the same as cpu with 10 seeds and 1,000 test images, on a GPU that all workers share. Of a short run 10
       seconds are compiling and one is training on an H200, so that two or three workers are worth having; fifteen
       hindered each other more than they won (a VAE's epoch then took 1 s instead of 0.15).
  gpu  convolutional networks, all images, 10 seeds, up to 60 epochs with patience 15, all test images; only RecMix
       starts from a VAE, as in the paper. Its time is a guess until the first cells are done.
Everywhere RecMix has all its components from the VAE's encoder, with noise.

Expected: the papers report RecMix > mixture > IAF > SAVI > VAE, and GPVAE > VAE everywhere. The page says of every
table where that is not what came out; docs/gpvae_findings.md and docs/baselines.md say what came out before.
"""

import dataclasses
import multiprocessing
import signal
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

from rich.live import Live

from experiments.command_line import command_line
from experiments.table1 import locks, queue, status
from experiments.table1.cells import SCALES, Cell
from experiments.table1.cells import queue as queue_of
from experiments.table1.work import RESULTS, Job, check_scale, files, renew_starts
from gpvae_jax.naming import unknown
from gpvae_jax.progress import console, say

STOP_SECONDS = 60.0


@dataclasses.dataclass(frozen=True)
class Table1:
    """What is run; an empty filter asks for everything."""

    budget: str = "cpu"
    """cpu, cpu-long, gpu-mlp or gpu: the scale."""
    datasets: tuple[str, ...] = ()
    latents: tuple[int, ...] = ()
    likelihoods: tuple[str, ...] = ()
    """gaussian, bernoulli (the latter for mnist, omniglot and fashion_mnist)."""
    methods: tuple[str, ...] = ()
    """Rows as in savi-2, or families as in savi."""
    data: tuple[str, ...] = ()
    """Files of your own for data sets by name, as in omniglot=FILE.npz."""
    workers: int = 1
    """Processes; at the scales for CPUs each has one core."""
    dry_run: bool = False
    """Only list the cells."""
    out: Path = Path("runs/table1")
    """Where the runs are kept."""
    results: Path = RESULTS
    """Where the finished cells' small files are kept."""


def main(command: Table1) -> int:
    """Do what is left; 1 where a cell failed."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if command.budget not in SCALES:
        raise ValueError(unknown("scale", command.budget, SCALES))
    if command.workers < 1:
        raise ValueError(f"--workers must be at least 1, got {command.workers}.")
    cells = queue_of(command.datasets, command.latents, command.likelihoods, command.methods)
    job = Job(command.budget, SCALES[command.budget], command.out, command.results, files(command.data))
    check_scale(job, cells)
    if command.dry_run:
        console.print(status.plan(status.states(job, cells, time.time()), status.estimates(job, cells)))
        return 0
    renew_starts(job, cells)
    now = run(job, cells, command.workers)
    failed = {cell: found.reason for cell, found in now.items() if found.name == "failed"}
    for cell, reason in failed.items():
        say(f"failed: {cell.name}: {reason}")
    done = sum(found.name == "done" for found in now.values())
    say(f"{done} of {len(cells)} cells are done. The tables: python -m experiments.table1.page")
    return 0 if done == len(cells) else 1


def run(job: Job, cells: list[Cell], workers: int) -> dict[Cell, queue.State]:
    """Start the workers, show how they stand, and replace one that dies; returns how the cells stand at the end."""
    started = time.time()
    context = multiprocessing.get_context("spawn")

    def start(number: int) -> BaseProcess:
        process = context.Process(target=queue.worker, args=(job, cells, started, number))
        process.start()
        return process

    def revive() -> bool:
        """Whether anybody is at work; a worker that was killed at a cell has another in its place."""
        for number, process in enumerate(processes):
            if process.exitcode not in (None, 0) and _bury(job, cells, process):
                processes[number] = start(number)
        return any(process.is_alive() for process in processes)

    processes = [start(number) for number in range(workers)]
    before = status.states(job, cells, started)
    try:
        with Live(console=console, auto_refresh=False) as live:
            while revive():
                before = _show(job, cells, started, before, live, workers)
                time.sleep(queue.POLL_SECONDS)
    finally:
        if any(process.is_alive() for process in processes):
            say("Stopping: half a minute of the runs at work, and an epoch, are done again next time.")
        for process in processes:
            process.terminate()
            process.join(STOP_SECONDS)
            process.kill()  # for whom that was not enough: what is on disk is always whole
            process.join()
    return status.states(job, cells, started)


def _show(
    job: Job, cells: list[Cell], started: float, before: dict[Cell, queue.State], live: Live, workers: int
) -> dict[Cell, queue.State]:
    """Print what has changed, refresh the table, and return how the cells stand now."""
    now = status.states(job, cells, started)
    for cell, found in now.items():
        if found.name != before[cell].name and found.name != "waiting":
            say(f"{time.strftime('%H:%M')}  {found.name:<8} {cell.name}  {found.reason}")
    live.update(status.live_table(job, now, status.estimates(job, cells), workers), refresh=True)
    return now


def _bury(job: Job, cells: list[Cell], process: BaseProcess) -> bool:
    """A worker that was killed, say for memory, has failed at its cell; False where it had none."""
    mine = [cell for cell in cells if locks.holder(queue.lock_of(job, cell)) == process.pid]
    for cell in mine:
        queue.fail(job, cell, f"Its worker ended with exit code {process.exitcode} (negative: that signal).")
        queue.lock_of(job, cell).unlink(missing_ok=True)
    return bool(mine)


if __name__ == "__main__":
    try:
        command_line(main, Table1, __doc__)
    except KeyboardInterrupt:
        print("Interrupted; the same command goes on from here.", file=sys.stderr)
        sys.exit(130)
