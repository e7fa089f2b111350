"""How everything here is measured: compiled ahead in stages, on the device, warm, waited for, in turns.

A benchmark makes competitors (`program` for JAX, a plain call for a peer), lets them `race`, and yields `Line`s; `main`
gives it a command line, one core, a result file and a table. With every race run three references: a program that does
nothing, the floor of any call; and right after it a matrix product and a sum of two vectors, whose rates are what the
operations and bytes of each row are held against. These two have a race of their own because of what they leave behind:
the row after such a vector would find the caches empty, and its memory still to be given back.
"""

import importlib.util
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import tyro

from benchmarks import records, tables
from benchmarks.operations import UNKNOWN, Cost, cost_of
from benchmarks.records import Line
from gpvae_jax.cli import EXPECTED
from gpvae_jax.environment import float32_products
from gpvae_jax.evaluate.latency import LEAST, Latency, interleave
from gpvae_jax.naming import unknown

OUT = Path("runs/bench")
MATRIX = {"cpu": 1024}  # rows and columns of the two matrices
MATRIX_ELSEWHERE = 8192
VECTOR = 2**24  # numbers, more than a cache holds
MIB = 2**20


@dataclass(frozen=True)
class Settings:
    """What every benchmark can be told."""

    out: Path = OUT
    """Folder of the result file."""
    name: str | None = None
    """Its name, without .jsonl (default: the benchmark's)."""
    seconds: float = 1.0
    """Time spent on each row of a table."""
    clock: str = "wall"
    """wall; or cpu, the process's own time, for a machine that computes something else as well (not for a GPU)."""


class Competitor(NamedTuple):
    """One row of a race: a call that returns when its work is done, and what is known of it beforehand."""

    call: Callable[[], Any]
    cost: Cost = UNKNOWN
    details: dict[str, Any] = {}  # noqa: RUF012 - read only


class Finish(NamedTuple):
    """What a race found of one row: time in ms, and details for its line."""

    time: Latency
    details: dict[str, Any]


class Staged(NamedTuple):
    """A compiled program with its arguments on the device."""

    executable: Callable[..., Any]
    arguments: tuple[Any, ...]
    cost: Cost
    details: dict[str, Any]

    def call(self) -> Any:
        """Run it, and wait for the result."""
        return jax.block_until_ready(self.executable(*self.arguments))


def stage(function: Callable[..., Any], *arguments: Any, trips: int | None = None, donate: tuple = ()) -> Staged:
    """Trace, lower and compile, each timed; `trips` as for `operations.count`, `donate` as jit's donate_argnums."""
    arguments = jax.device_put(arguments)
    begin = time.perf_counter()
    traced = jax.jit(function, donate_argnums=donate).trace(*arguments)
    after_trace = time.perf_counter()
    lowered = traced.lower()
    after_lower = time.perf_counter()
    executable = lowered.compile()
    end = time.perf_counter()
    xla, memory = executable.cost_analysis() or {}, executable.memory_analysis()
    details = {
        "trace_ms": 1e3 * (after_trace - begin),
        "lower_ms": 1e3 * (after_lower - after_trace),
        "compile_ms": 1e3 * (end - after_lower),
        "xla_operations": xla.get("flops"),  # a loop's body counted once
        "xla_bytes": xla.get("bytes accessed"),
        "memory_mib": None if memory is None else memory.temp_size_in_bytes / MIB,
    }
    return Staged(executable, arguments, cost_of(traced.jaxpr.jaxpr, trips), details)


def program(function: Callable[..., Any], *arguments: Any, trips: int | None = None) -> Competitor:
    """A pure function as a competitor; its first argument's leaves are counted as its parameters."""
    staged = stage(function, *arguments, trips=trips)
    details = staged.details | {"leaves": len(jax.tree.leaves(arguments[:1]))}
    return Competitor(staged.call, staged.cost, details)


def has_peer(package: str) -> bool:
    """Whether another library can be measured beside ours: where it is installed, and on a CPU, as ours is then."""
    return importlib.util.find_spec(package) is not None and jax.default_backend() == "cpu"


def references(dtype: Any = jnp.float32) -> dict[str, Competitor]:
    """A matrix product and a sum of two vectors."""
    size = MATRIX.get(jax.default_backend(), MATRIX_ELSEWHERE)
    square, vector = jnp.ones((size, size), dtype), jnp.ones(VECTOR, dtype)
    moved = Cost(others=VECTOR, bytes=3 * vector.nbytes)
    return {
        "matrix product": program(jnp.matmul, square, square),
        "vector sum": program(jnp.add, vector, vector)._replace(cost=moved),
    }


def race(
    competitors: Mapping[str, Competitor], command: Settings, *, least: int = LEAST, dtype: Any = jnp.float32
) -> dict[str, Finish]:
    """All in turn, then the references; every row gets its shares of the rates that these reached."""
    rows, rates = dict(competitors) | {"floor": program(lambda x: x + 1, jnp.float32(0))}, references(dtype)
    times = _times(rows, command, least) | _times(rates, command, least)
    matmul = rates["matrix product"].cost.products / times["matrix product"].median
    bandwidth = rates["vector sum"].cost.bytes / times["vector sum"].median
    shared = {"floor_ms": times["floor"].median, "matmul_gflops": 1e-6 * matmul, "bandwidth_gbs": 1e-6 * bandwidth}
    found = {}
    for name, one in (rows | rates).items():
        cost, time_ms = one.cost, times[name].median
        details = {"operations": cost.operations} | cost._asdict()
        details |= {"of_matmul": cost.operations / time_ms / matmul, "of_bandwidth": cost.bytes / time_ms / bandwidth}
        found[name] = Finish(times[name], details | shared | one.details)
    return found


def _times(rows: Mapping[str, Competitor], command: Settings, least: int) -> dict[str, Latency]:
    calls = {name: one.call for name, one in rows.items()}
    return interleave(calls, seconds=command.seconds, least=least, clock=clock_of(command))


def latency_lines(benchmark: str, settings: dict[str, Any], found: Mapping[str, Finish]) -> list[Line]:
    """Lines in milliseconds."""
    return [
        Line(benchmark, row, settings, "ms", *finish.time, details=dict(finish.details))
        for row, finish in found.items()
    ]


def throughput_lines(
    benchmark: str, settings: dict[str, Any], found: Mapping[str, Finish], images: Mapping[str, int]
) -> list[Line]:
    """Lines in images a second of the rows that have `images` in each call."""
    made = []
    for row, count in images.items():
        median, low, high, repeats = found[row].time
        speed, slow, fast = (1e3 * count / ms for ms in (median, high, low))
        made.append(Line(benchmark, row, settings, "images/s", speed, slow, fast, repeats, dict(found[row].details)))
    return made


def unsupported(benchmark: str, row: str, settings: dict[str, Any], unit: str, why: str) -> Line:
    """A row that cannot be measured, and the reason."""
    return Line(benchmark, row, settings, unit, math.nan, math.nan, math.nan, 0, {"unsupported": why})


def known(kind: str, names: Iterable[str], choices: Iterable[str]) -> None:
    """Raise ValueError, one sentence, where a name is none of the choices."""
    choices = tuple(choices)
    for name in names:
        if name not in choices:
            raise ValueError(unknown(kind, name, choices))


CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def clock_of(command: Settings) -> Callable[[], float]:
    """The clock that was chosen. Raises ValueError on an unknown one."""
    known("clock", [command.clock], CLOCKS)
    return CLOCKS[command.clock]


def pin() -> None:
    """Keep this process on one core, where the system can: before the first computation, which starts the threads."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


S = TypeVar("S", bound=Settings)


def main(name: str, settings: type[S], run: Callable[[S], Iterable[Line]], description: str | None) -> None:
    """The command line of one benchmark: pin, measure, write OUT/NAME.jsonl and print the table."""
    pin()
    float32_products()  # as the command line's, or a row called float32 would not be
    command = tyro.cli(settings, description=description)
    try:
        clock_of(command)
        lines = list(run(command))
    except EXPECTED as error:
        sys.exit(f"Error: {error}")
    if command.clock != "wall":
        lines = [line._replace(settings=line.settings | {"clock": command.clock}) for line in lines]
    records.write(command.out / f"{command.name or name}.jsonl", lines)
    tables.show(lines)
