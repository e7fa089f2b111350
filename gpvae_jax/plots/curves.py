"""Learning curves."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gpvae_jax.plots.style import INK, Style, checked_styles, marker, new_axes, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def learning_curves(
    histories: Mapping[str, Sequence[Mapping[str, Any]]], styles: Mapping[str, Style] | None = None
) -> "Figure":
    """Validation ELBO and, dashed, training ELBO where there is one, against epoch; the best epoch is marked.

    histories: per method one dict per epoch with `epoch`, `validation_elbo` and, if known, `elbo`, in nats
    per example: numbers, or [R] for R seeds, each then a line of its own. None and values that are not finite
    leave gaps. The vertical axis leaves out early epochs far below the rest, and says so.
    Raises ValueError where there is no history, an empty one, or one without those keys.
    """
    from matplotlib.ticker import MaxNLocator

    if not histories:
        raise ValueError("Learning curves need the history of at least one method, got none.")
    styles = checked_styles(histories, styles)
    figure, axes = new_axes(4.4)
    curves = [curve for name, rows in histories.items() for curve in _draw_history(axes, name, rows, styles[name])]
    low, high = _robust_limits(curves)
    axes.set_ylim(low, high)
    hidden = sum(int(np.sum(curve < low)) for curve in curves)
    if hidden:
        total = sum(int(np.isfinite(curve).sum()) for curve in curves)
        note = f"↓ {hidden} of {total} points lie below"
        axes.text(0.99, 0.02, note, transform=axes.transAxes, ha="right", size=8, color="#666666")
    epochs = [row["epoch"] for rows in histories.values() for row in rows]
    edge = 0.02 * (max(epochs) - min(epochs)) + 0.5
    axes.set_xlim(min(epochs) - edge, max(epochs) + edge)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10], min_n_ticks=1))
    axes.set(xlabel="epoch", ylabel="ELBO (nats per example)")
    _legends(figure, histories, styles)
    return figure


def _history(name: str, rows: Sequence[Mapping[str, Any]], key: str) -> np.ndarray:
    """One value per epoch and seed, [E, R]; NaN where unknown."""
    values = np.asarray([row[key] for row in rows], np.float64)
    if values.ndim > 2:
        raise ValueError(f"'{key}' of '{name}' must be a number or one per seed, but has shape {values.shape[1:]}.")
    return values.reshape(len(rows), -1)


def _draw_history(axes: "Axes", name: str, rows: Sequence[Mapping[str, Any]], style: Style) -> list[np.ndarray]:
    if not rows or not all("epoch" in row and "validation_elbo" in row for row in rows):
        raise ValueError(f"The history of '{name}' needs at least one epoch, each with 'epoch' and 'validation_elbo'.")
    epoch = np.asarray([row["epoch"] for row in rows])
    validation = _history(name, rows, "validation_elbo").T
    training = _history(name, rows, "elbo").T if all("elbo" in row for row in rows) else []
    shown = "." if len(rows) == 1 else ""
    for curve in training:
        axes.plot(epoch, curve, color=style.color, linewidth=0.9, linestyle=(0, (4, 2)), marker=shown, alpha=0.75)
    for curve in validation:
        axes.plot(epoch, curve, color=style.color, linewidth=1.8)
        if np.isfinite(curve).any():
            best = int(np.nanargmax(np.where(np.isfinite(curve), curve, np.nan)))
            axes.plot(epoch[best], curve[best], **marker(style))
    return [*validation, *training]


def _robust_limits(curves: Sequence[np.ndarray]) -> tuple[float, float]:
    """Limits that hold every value, save those far below the upper three quarters of their own curve."""
    finite = [values for values in (curve[np.isfinite(curve)] for curve in curves) if values.size]
    if not finite:
        return 0.0, 1.0
    high = max(values.max() for values in finite)
    low = math.inf
    for values in finite:
        quartile, top = np.quantile(values, 0.25), values.max()
        low = min(low, max(values.min(), quartile - (top - quartile)))
    margin = 0.05 * (high - low) or 0.5
    return float(low - margin), float(high + margin)


def _legends(figure: "Figure", names: Iterable[str], styles: Mapping[str, Style]) -> None:
    """What a line's kind means above the axes, what its colour means below."""
    from matplotlib.lines import Line2D

    grey = "#666666"
    kinds = [
        Line2D([], [], label="validation", linewidth=1.8, color=grey),
        Line2D([], [], label="training", linewidth=0.9, linestyle=(0, (4, 2)), color=grey),
        Line2D([], [], label="best epoch", **marker(Style(grey, "o"))),
    ]
    methods = [Line2D([], [], label=plain(name), linewidth=1.8, **marker(styles[name])) for name in names]
    for line in methods:
        line.set_linestyle("-")
    common = {"frameon": False, "fontsize": 9, "labelcolor": INK}
    figure.legend(handles=kinds, loc="outside upper center", ncols=3, **common)
    figure.legend(handles=methods, loc="outside lower center", ncols=5, **common)
