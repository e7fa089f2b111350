"""Gains over the VAE against inference time: the scatter, and the rows than which no other is better and as fast."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.table1.tables import SLACK
from gpvae_jax.plots.style import FAINT, INK, WIDTH, Style, in_style, marker, method_styles
from gpvae_jax.plots.tradeoff import label_points

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


BOUNDS = ("elbo", "iwae")


def front(times: list[float], values: list[float]) -> list[int]:
    """Indices, by rising time, of the points that no other is as fast as, within `SLACK`, and better than."""
    order, best, kept = sorted(range(len(times)), key=lambda i: (times[i], -values[i])), -np.inf, []
    for i in order:
        as_fast = max(value for time, value in zip(times, values, strict=True) if time <= SLACK * times[i])
        if best < values[i] == as_fast:
            best = values[i]
            kept.append(i)
    return kept


def figure(
    rows: list[dict[str, Any]], fronts: dict[str, list[int]], styles: Mapping[str, Style] | None = None
) -> "Figure":
    """Gain in each bound over the first row against time, one look per family, the front as a line and named.

    A row has a name, a family, the time in the first row's, and of "elbo" and "iwae" the gain and its error se, nats.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    styles = styles or method_styles(row["family"] for row in rows)
    drawn = Figure((1.3 * WIDTH, 8.6), layout="constrained", facecolor="white")
    panels = drawn.subplots(2, 1, sharex=True)
    for axes, (bound, kept) in zip(panels, fronts.items(), strict=True):
        _panel(axes, rows, bound, kept, styles)
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if _end(rows) < 1000 else (1.0,)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}×"))
    panels[1].set_xlabel(f"time to infer q(z|x), in units of {rows[0]['name']}'s (logarithmic)")
    handles = {label: h for h, label in zip(*panels[0].get_legend_handles_labels(), strict=True)}
    drawn.legend(
        handles.values(), handles, loc="outside lower center", ncols=5, frameon=False, fontsize=8, labelcolor=INK
    )
    for axes, (bound, kept) in zip(panels, fronts.items(), strict=True):
        low = axes.get_ylim()[0]
        points = {r["name"]: (r["time"], r[bound]["gain"], r[bound]["se"]) for r in rows if r[bound]["gain"] > low}
        names = [rows[i]["name"] for i in kept if rows[i]["name"] in points]
        label_points(drawn, axes, points, names, steps=_corners(rows, bound, kept))
    return drawn


def _panel(axes: "Axes", rows: list[dict[str, Any]], bound: str, kept: list[int], styles: Mapping[str, Style]) -> None:
    """Every row's gain in one bound; what lies a third of the greatest gain below zero is only named."""
    gain = [row[bound]["gain"] for row in rows]
    top = max(gain) or 1.0  # the first row's own is 0
    lowest, end = -0.35 * top, _end(rows)
    for row in rows:
        error = row[bound]["se"] if np.isfinite(row[bound]["se"]) else 0.0
        look = marker(styles[row["family"]]) | {"label": row["family"]}
        axes.errorbar(row["time"], row[bound]["gain"], error, elinewidth=1.0, capsize=2, **look)
    corners = _corners(rows, bound, kept)
    in_style(axes).step(*zip(*corners, strict=True), where="post", color=FAINT, linewidth=1.2, zorder=1)
    axes.axhline(0, color=FAINT, linewidth=0.7)
    name = "ELBO" if bound == "elbo" else "IWAE bound"
    axes.set(xscale="log", xlim=(0.6, end), ylim=(lowest, 1.25 * top), ylabel=f"{name} over {rows[0]['name']} (nats)")
    if below := [f"{row['name']} ({row[bound]['gain']:.1f})" for row in rows if row[bound]["gain"] < lowest]:
        text = ("below: " + ", ".join(below)).replace("-", "−")
        axes.text(0.99, 0.02, text, transform=axes.transAxes, ha="right", size=8, color=INK)


def _end(rows: list[dict[str, Any]]) -> float:
    """Where the axis of time ends."""
    return 4 * float(max(row["time"] for row in rows))


def _corners(rows: list[dict[str, Any]], bound: str, kept: list[int]) -> list[tuple[float, float]]:
    """The front's corners, and where its line leaves the picture."""
    return [(rows[i]["time"], rows[i][bound]["gain"]) for i in kept] + [(_end(rows), rows[kept[-1]][bound]["gain"])]
