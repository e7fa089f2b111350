"""What moved between two results beyond their noise.

    python -m benchmarks.regressions OLD NEW

OLD and NEW are result files, or folders of them. A row has moved where the middle 80 % of its old and its new readings
do not meet and the medians differ by more than --tolerance. Exit code 1 if anything got worse, 2 if the two cannot be
compared. The references of a race tell of the machine, not of the library: they are reported and do not count.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import tyro
from rich.table import Table

from benchmarks.records import RATES, Line, Results, read
from benchmarks.tables import console

REFERENCES = ("floor", "matrix product", "vector sum")


@dataclass(frozen=True)
class Regressions:
    """What is compared."""

    old: tyro.conf.Positional[Path]
    new: tyro.conf.Positional[Path]
    tolerance: float = 0.05
    """Relative change of a median that does not count, however small the noise."""


class Move(NamedTuple):
    """A row that changed beyond noise; `factor` above 1 is worse."""

    old: Line
    new: Line
    factor: float


def moves(old: Results, new: Results, tolerance: float) -> list[Move]:
    """Every row that moved, the worst first. Raises ValueError, one sentence, where the two cannot be compared."""
    machines = [{_machine(origin) for origin in part.origins} for part in (old, new)]
    if machines[0] != machines[1]:
        raise ValueError(
            f"The old results are of {_names(machines[0])} and the new ones of {_names(machines[1])}; times compare on "
            "one machine only, so measure both there."
        )
    before, after = _by_key(old), _by_key(new)
    both = [key for key in before if key in after]
    if not both:
        raise ValueError("The two results have no row in common; measure the same benchmarks with the same settings.")
    found = [Move(before[key], after[key], _factor(before[key], after[key])) for key in both]
    return sorted((m for m in found if _moved(m, tolerance)), key=lambda m: -m.factor)


def _by_key(results: Results) -> Mapping[tuple[str, ...], Line]:
    return {line.key: line for line in results.lines if line.median > 0}  # NaN is not


def _factor(old: Line, new: Line) -> float:
    ratio = new.median / old.median
    return 1 / ratio if old.unit in RATES else ratio


def _moved(move: Move, tolerance: float) -> bool:
    old, new = move.old, move.new
    apart = new.low > old.high or new.high < old.low
    return apart and not 1 / (1 + tolerance) <= move.factor <= 1 + tolerance


def _machine(origin: dict) -> str:
    machine = origin.get("machine") or {}
    return f"{machine.get('processor')} ({machine.get('device')})"


def _names(machines: set[str]) -> str:
    return " and ".join(sorted(machines))


def report(found: list[Move]) -> Table:
    """The rows that moved."""
    made = Table(box=None)
    for name in ("row", "old", "new", "unit", "times as bad"):
        made.add_column(name, justify="left" if name == "row" else "right")
    for move in found:
        cells = [f"{line.median:,.4g} ({line.low:,.4g} … {line.high:,.4g})" for line in (move.old, move.new)]
        made.add_row(move.new.what, *cells, move.new.unit, f"{move.factor:.2f}")
    return made


def main(command: Regressions) -> int:
    """Print what moved; returns the exit code."""
    try:
        found = moves(read(command.old), read(command.new), command.tolerance)
    except (ValueError, FileNotFoundError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    worse = [m for m in found if m.factor > 1 and m.new.row not in REFERENCES]
    better = [m for m in found if m.factor < 1 and m.new.row not in REFERENCES]
    machine = [m for m in found if m.new.row in REFERENCES]
    for title, part in (("Worse", worse), ("Better", better), ("The machine itself", machine)):
        if part:
            console().print(f"[bold]{title}[/bold]", report(part))
    print(f"{len(worse)} got worse, {len(better)} got better, beyond noise.")
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Regressions, description=__doc__)))
