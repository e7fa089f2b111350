"""Result lines as tables: one for each benchmark and choice of settings, ratios to its first row."""

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.records import Line
from gpvae_jax.progress import page

WIDTH = 200  # of the widest table, where the output is a file or a pipe

MEASURED = {
    "operations": ("ops", lambda v: f"{v:.2e}"),
    "transcendental": ("exp, log", lambda v: f"{v:.1e}"),
    "of_matmul": ("of matmul", lambda v: f"{100 * v:.0f} %"),
    "of_bandwidth": ("of memory", lambda v: f"{100 * v:.0f} %"),
    "of_decoder": ("of decoder", lambda v: f"{100 * v:.0f} %"),
    "full_s": ("full size, s", lambda v: f"{v:.0f}"),
    "share_outside_decoder": ("outside decoder", lambda v: f"{100 * v:.0f} %"),
    "expected": ("expected", lambda v: f"{v:.4g}"),
    "memory_mib": ("scratch MiB", lambda v: f"{v:.1f}"),
    "compiler_mib": ("compiler MiB", lambda v: f"{v:.1f}"),
    "leaves": ("leaves", lambda v: f"{v:.0f}"),
    "trace_ms": ("trace", lambda v: f"{v:.0f}"),
    "lower_ms": ("lower", lambda v: f"{v:.0f}"),
    "compile_ms": ("compile", lambda v: f"{v:.0f}"),
}  # detail -> its column's title, and how it is written


def show(lines: Iterable[Line]) -> None:
    """Print every table."""
    for _, group in itertools.groupby(lines, key=lambda line: (line.benchmark, line.settings, line.unit)):
        console().print(table(list(group)), "")


def console() -> Console:
    """The terminal, or a wide page where there is none."""
    return page(WIDTH)


def table(lines: Sequence[Line]) -> Table:
    """One table from lines of the same benchmark, settings and unit."""
    first, columns = lines[0], [n for n in MEASURED if any(_known(line.details.get(n)) for line in lines)]
    made = Table(title=_title(first), box=None, title_justify="left")
    operations = "operations" in columns
    names = ["row", "median", "10 %", "90 %", "× first", *(["ops × first"] if operations else [])]
    for name in (*names, *(MEASURED[column][0] for column in columns), "readings"):
        made.add_column(name, justify="left" if name == "row" else "right", no_wrap=True)
    for line in lines:
        if math.isnan(line.median):
            made.add_row(line.row, f"[dim]{line.details['unsupported']}[/dim]")
            continue
        cells = [f"{value:,.4g}" for value in (line.median, line.low, line.high)]
        cells.append(ratio(line.median, first.median))
        if operations:
            cells.append(ratio(line.details.get("operations"), first.details.get("operations")))
        cells += [_cell(line.details.get(column), MEASURED[column][1]) for column in columns]
        made.add_row(line.row, *cells, str(line.repeats))
    return made


def _title(line: Line) -> str:
    settings = ", ".join(f"{name} {value}" for name, value in line.settings.items())
    about = line.details
    rates = ""
    if _known(about.get("floor_ms")):
        rates = (
            f"\nfloor {1e3 * about['floor_ms']:.0f} µs, matrix product {about['matmul_gflops']:,.0f} GFLOP/s, "
            f"vector sum {about['bandwidth_gbs']:,.0f} GB/s"
        )
    return f"{line.benchmark}: {settings}; {line.unit}{rates}"


def ratio(value: float | None, reference: float | None) -> str:
    """A ratio, or a dash where there is none."""
    return f"{value / reference:.2f}" if value and reference and math.isfinite(value / reference) else "–"


def _cell(value: float | None, form: Callable[[Any], str]) -> str:
    return form(value) if _known(value) else "–"


def _known(value: float | None) -> bool:
    return value is not None and not math.isnan(value)
