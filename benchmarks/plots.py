"""Figures from result lines, in the style of the library's other figures."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.records import Line
from benchmarks.regressions import REFERENCES
from gpvae_jax import compare, runs
from gpvae_jax.files import write_bytes
from gpvae_jax.plots import likelihood_against_time, method_styles
from gpvae_jax.plots.style import INK, new_axes
from gpvae_jax.report import png

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BATCH_COLORS = ("#56B4E9", "#0072B2", "#000000")


def draw(lines: Sequence[Line], folder: Path) -> list[Path]:
    """Write every figure that the lines allow; returns their paths."""
    figures: dict[str, Figure] = {}
    for architecture in ("mlp", "conv"):
        of = _latencies(lines, architecture)
        if of:
            figures[f"latency_{architecture}.png"] = latency_by_method(of)
            figures[f"throughput_{architecture}.png"] = throughput_by_batch(of)
    for axis in dict.fromkeys(line.settings["axis"] for line in lines if line.benchmark == "scaling"):
        of = [x for x in lines if x.benchmark == "scaling" and x.settings["axis"] == axis and "at" in x.details]
        figures[f"scaling_{axis}.png"] = cost_by_setting(of)
    return [save(figure, folder / name) for name, figure in figures.items()]


def save(figure: "Figure", path: Path) -> Path:
    """Write a figure as PNG, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, png(figure))
    return path


def _latencies(lines: Sequence[Line], architecture: str) -> list[Line]:
    wanted = {"architecture": architecture, "dtype": "float32", "call": "sample"}
    chosen = [x for x in lines if x.benchmark == "latency" and wanted.items() <= x.settings.items()]
    return [line for line in chosen if line.row not in REFERENCES and not math.isnan(line.median)]


def latency_by_method(lines: Sequence[Line]) -> "Figure":
    """Time of one call, a row for each method and a point for each batch size, with the middle 80 % of its readings."""
    rows, batches = list(dict.fromkeys(line.row for line in lines)), list(dict.fromkeys(map(_batch, lines)))
    figure, axes = new_axes(0.8 + 0.32 * len(rows))
    for batch, color in zip(batches, BATCH_COLORS, strict=False):
        some = [line for line in lines if _batch(line) == batch]
        y = [rows.index(line.row) for line in some]
        axes.errorbar([x.median for x in some], y, xerr=_errors(some), fmt="o", color=color, label=f"{batch:,}", ms=5)
    floor = next((x.details["floor_ms"] for x in lines if "floor_ms" in x.details), None)
    if floor is not None:
        axes.axvline(floor, color=INK, linewidth=0.8, linestyle=":")
        axes.annotate(" a call that does nothing", (floor, -0.7), size=8, color=INK, va="center")
    axes.set_yticks(range(len(rows)), rows)
    axes.set(xscale="log", xlabel="q(z|x), one sample and its density (ms, logarithmic)", ylim=(len(rows) - 0.4, -1.2))
    axes.legend(title="batch", frameon=False, fontsize=8, title_fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def throughput_by_batch(lines: Sequence[Line]) -> "Figure":
    """Images per second against the batch size, a line for each method."""
    rows = list(dict.fromkeys(line.row for line in lines))
    figure, axes = new_axes(4.2)
    for row, style in method_styles(rows).items():
        some = sorted((line for line in lines if line.row == row), key=_batch)
        speeds = [1e3 * _batch(line) / line.median for line in some]
        axes.plot([_batch(x) for x in some], speeds, color=style.color, marker=style.marker, label=row, linewidth=1.2)
    axes.set(xscale="log", yscale="log", xlabel="batch size (logarithmic)", ylabel="images per second (logarithmic)")
    _name_ticks(axes, sorted({_batch(line) for line in lines}))
    axes.legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def cost_by_setting(lines: Sequence[Line]) -> "Figure":
    """Measured time against a setting, each method with its expected line, dashed."""
    methods = list(dict.fromkeys(line.settings["method"] for line in lines))
    figure, axes = new_axes(3.6)
    for method, style in method_styles(methods).items():
        some = sorted((x for x in lines if x.settings["method"] == method), key=lambda x: x.details["at"])
        at = [line.details["at"] for line in some]
        axes.errorbar(
            at, [x.median for x in some], _errors(some), color=style.color, marker=style.marker, label=method,
            linestyle="none",
        )  # fmt: skip
        axes.plot(at, [x.details["expected"] for x in some], color=style.color, linestyle="--", linewidth=1)
    axis = lines[0].settings["axis"]
    if axis in "STZ":
        axes.set(xscale="log", yscale="log")
        _name_ticks(axes, sorted({line.details["at"] for line in lines}))
    else:
        axes.set_ylim(bottom=0)
    axes.set(xlabel=NAMES[axis], ylabel="ms; dashed: by operations")
    axes.legend(frameon=False, fontsize=8)
    return figure


NAMES = {
    "M": "mixture components M",
    "K": "refinement steps K",
    "S": "importance samples S",
    "T": "annealing temperatures T",
    "Z": "latent dimensions Z",
}


def tradeoff(folder: Path) -> "Figure":
    """The IWAE bound against inference time of the finished runs in a folder of `gpvae compare`, timed anew."""
    finished = sorted(folder.glob("*/results.json"))
    if not finished:
        raise FileNotFoundError(f"{folder} holds no evaluated runs; give the --out folder of a finished gpvae compare.")
    return likelihood_against_time(compare.rows({path.parent.name: runs.open_run(path.parent) for path in finished}))


def _batch(line: Line) -> int:
    return line.settings["batch"]


def _errors(lines: Sequence[Line]) -> list[list[float]]:
    return [[x.median - x.low for x in lines], [x.high - x.median for x in lines]]


def _name_ticks(axes, at: Sequence[int]) -> None:
    axes.set_xticks(at, [f"{value:,}" for value in at])
    axes.minorticks_off()
