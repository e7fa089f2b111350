"""Learning curves."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gpvae_jax.plots.style import INK, Style, checked_styles, marker, new_axes, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_GREY = "#666666"


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
    drawn = {name: _draw_history(axes, name, rows, styles[name]) for name, rows in histories.items()}
    curves = [curve for pair in drawn.values() for curve in np.concatenate(pair)]
    low, high = _robust_limits(curves)
    axes.set_ylim(low, high)
    finite = np.concatenate([curve[np.isfinite(curve)] for curve in curves])
    hidden, total = int(np.sum(finite < low)), finite.size
    if hidden:
        note = f"↓ {hidden} of {total} points lie below"
        axes.text(0.99, 0.02, note, transform=axes.transAxes, ha="right", size=8, color=_GREY)
    epochs = [row["epoch"] for rows in histories.values() for row in rows]
    edge = max(0.5, 0.02 * (max(epochs) - min(epochs)))
    axes.set_xlim(min(epochs) - edge, max(epochs) + edge)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10], min_n_ticks=1))
    axes.set(xlabel="epoch", ylabel="ELBO (nats per example)")
    _legends(figure, drawn, styles)
    return figure


def _history(name: str, rows: Sequence[Mapping[str, Any]], key: str) -> np.ndarray:
    """One value per epoch and seed, [E, R]; NaN where unknown."""
    values = np.asarray([row[key] for row in rows], np.float64)
    if values.ndim > 2:
        raise ValueError(f"'{key}' of '{name}' must be a number or one per seed, but has shape {values.shape[1:]}.")
    return values.reshape(len(rows), -1)


def _draw_history(
    axes: "Axes", name: str, rows: Sequence[Mapping[str, Any]], style: Style
) -> tuple[np.ndarray, np.ndarray]:
    """Draw one method; returns its validation [R, E] and training [R or 0, E] curves."""
    if not rows or not all("epoch" in row and "validation_elbo" in row for row in rows):
        raise ValueError(f"The history of '{name}' needs at least one epoch, each with 'epoch' and 'validation_elbo'.")
    epoch = np.asarray([row["epoch"] for row in rows])
    validation = _history(name, rows, "validation_elbo").T
    training = _history(name, rows, "elbo").T if all("elbo" in row for row in rows) else validation[:0]
    shown = "." if len(rows) == 1 else "None"
    for curve in training:
        axes.plot(epoch, curve, color=style.color, linewidth=0.9, linestyle=(0, (4, 2)), marker=shown, alpha=0.75)
    for curve in validation:
        axes.plot(epoch, curve, color=style.color, linewidth=1.8)
        if np.isfinite(curve).any():
            best = int(np.nanargmax(np.where(np.isfinite(curve), curve, np.nan)))
            axes.plot(epoch[best], curve[best], **marker(style))
    return validation, training


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


def _legends(figure: "Figure", drawn: Mapping[str, tuple[np.ndarray, np.ndarray]], styles: Mapping[str, Style]) -> None:
    """What a line's kind means above the axes, what its colour means below."""
    from matplotlib.lines import Line2D

    kinds = [Line2D([], [], label="validation", linewidth=1.8, color=_GREY)]
    if any(len(training) for _, training in drawn.values()):
        kinds.append(Line2D([], [], label="training", linewidth=0.9, linestyle=(0, (4, 2)), color=_GREY))
    kinds.append(Line2D([], [], label="best epoch", **marker(Style(_GREY, "o"))))
    methods = []
    for name, (validation, _) in drawn.items():
        label = plain(name) + ("" if np.isfinite(validation).any() else " (no finite value)")
        methods.append(Line2D([], [], label=label, linewidth=1.8, **marker(styles[name]) | {"linestyle": "-"}))
    common = {"frameon": False, "fontsize": 9, "labelcolor": INK}
    figure.legend(handles=kinds, loc="outside upper center", ncols=3, **common)
    figure.legend(handles=methods, loc="outside lower center", ncols=5, **common)
