"""Run every benchmark at a modest size, print the tables, draw the figures and hold the results against the goals.

    python -m benchmarks                              # about twenty minutes on a quiet machine; writes runs/bench
    python -m benchmarks --only startup training
    python -m benchmarks --compared runs/compare      # also the likelihood against latency of a finished comparison

Each part is a process of its own, on one core. With `--only` the other parts' results stay as they were.
"""

import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import tyro

from benchmarks import goals, plots, records, tables
from benchmarks.harness import CLOCKS, OUT, known
from gpvae_jax.cli import EXPECTED

CONV_ROWS = ("vae", "gpvae", "recmix", "recmix:num_components=5", "newton", "savi", "iaf")
PARTS: dict[str, tuple[str, ...]] = {
    "startup": ("--repeats", "3"),
    "latency": ("--architectures", "mlp", "--dtypes", "float32", "--seconds", "0.3"),
    "latency_conv": ("--architectures", "conv", "--dtypes", "float32", "--seconds", "0.3", "--rows", *CONV_ROWS),
    "latency_bfloat16": ("--dtypes", "bfloat16", "--batches", "128", "--calls", "sample", "--seconds", "0.3"),
    "deployment": ("--seconds", "0.3"),
    "training": ("--seconds", "2"),
    "evaluation": ("--seconds", "3"),
    "annealing": ("--temperatures", "4", "--seconds", "2"),
    "scaling": ("--seconds", "0.3"),
    "curvature": ("--seconds", "0.5"),
    "seeds": ("--seconds", "1"),
    "memory": (),
}  # part -> settings of the benchmark before its underscore


@dataclass(frozen=True)
class Suite:
    """What is run."""

    out: Path = OUT
    """Folder of results and figures."""
    only: tuple[str, ...] = ()
    """Parts to run (default: all)."""
    compared: Path | None = None
    """Folder of a finished `gpvae compare`, whose likelihoods are drawn against latency."""
    clock: str = "wall"
    """wall; or cpu, the process's own time, for a machine that computes something else as well."""


def main(command: Suite) -> int:
    """Run the parts in turn; returns the number that failed."""
    known("part", command.only, PARTS)
    known("clock", [command.clock], CLOCKS)
    tradeoff = None if command.compared is None else plots.tradeoff(command.compared)
    failed = [name for name in command.only or PARTS if not _succeeds(name, command)]
    lines = records.read(command.out).lines
    made = plots.draw(lines, command.out)
    if tradeoff is not None:
        made.append(plots.save(tradeoff, command.out / "likelihood_against_latency.png"))
    out = tables.console()
    out.print(goals.table(lines), "")
    out.print(f"Results: {command.out}/*.jsonl; figures: {', '.join(path.name for path in made)}.")
    if failed:
        out.print(f"[red]Failed: {', '.join(failed)}.[/red]")
    return len(failed)


def _succeeds(name: str, command: Suite) -> bool:
    started = time.perf_counter()
    module = f"benchmarks.{name.partition('_')[0]}"
    common = ("--out", str(command.out), "--name", name, "--clock", command.clock)
    ended = subprocess.run([sys.executable, "-m", module, *PARTS[name], *common])
    print(f"{name}: {time.perf_counter() - started:.0f} s\n", flush=True)
    return ended.returncode == 0


if __name__ == "__main__":
    try:
        sys.exit(main(tyro.cli(Suite, description=__doc__)))
    except EXPECTED as error:
        sys.exit(f"Error: {error}")
