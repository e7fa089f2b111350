"""Quality against cost: the IWAE bound against inference time, one labelled point per method."""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gpvae_jax.plots.style import FAINT, INK, Style, checked_styles, marker, new_axes, plain
from gpvae_jax.report.rows import CompareRow, check_rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


Box = tuple[float, float, float, float]  # left, bottom, right, top, in pixels


def likelihood_against_time(rows: Sequence[CompareRow], styles: Mapping[str, Style] | None = None) -> "Figure":
    """IWAE bound of the largest number of samples, ± one standard error, against inference time per batch.

    One labelled point per method; up and left is better. A method without a finite bound or time has no place
    in the picture and is named beneath it, with the reason. Raises ValueError where the rows cannot be compared.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    check_rows(rows)
    styles, samples = checked_styles([row.name for row in rows], styles), max(rows[0].iwae)
    points, missing = _points(rows, samples)
    figure, axes = new_axes(4.2)
    axes.set_xscale("log")
    for name, (time, bound, error) in points.items():
        error_bar: dict[str, Any] = {"yerr": error, "elinewidth": 1.2, "capsize": 3} if math.isfinite(error) else {}
        axes.errorbar(time, bound, **error_bar, **marker(styles[name]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set(
        xlabel=f"time to infer q(z|x) of a batch of {rows[0].latency_batch} (ms, logarithmic)",
        ylabel=f"IWAE-{samples} (nats per example)",
    )
    if points:
        times = [time for time, _, _ in points.values()]
        axes.set_xlim(min(times) / 2, max(times) * 2)  # room for labels, and for two ticks at least
        steps = (1.0, 2.0, 5.0) if max(times) < 1e3 * min(times) else (1.0,)
        axes.xaxis.set_major_locator(LogLocator(subs=steps))
        axes.margins(y=0.2)
    else:
        axes.set(xticks=[], yticks=[])
    if missing:
        words = "; ".join(f"{', '.join(names)} ({reason})" for reason, names in missing.items())
        figure.supxlabel("not drawn: " + plain(words), size=8, color="#B00020", wrap=True)
    label_points(figure, axes, points, points)
    return figure


def _points(
    rows: Sequence[CompareRow], samples: int
) -> tuple[dict[str, tuple[float, float, float]], dict[str, list[str]]]:
    """name -> (time, bound, standard error) of what can be drawn, and reason -> names of what cannot."""
    points: dict[str, tuple[float, float, float]] = {}
    missing: dict[str, list[str]] = {}
    for row in rows:
        bound, error = row.iwae[samples]
        if row.latency_ms is None:
            missing.setdefault("time not measured", []).append(row.name)
        elif not (math.isfinite(row.latency_ms) and row.latency_ms > 0):
            missing.setdefault(f"its time is {row.latency_ms:g} ms", []).append(row.name)
        elif not math.isfinite(bound):
            missing.setdefault(f"its bound is {_name_of(bound)}", []).append(row.name)
        else:
            points[row.name] = (row.latency_ms, bound, error)
    return points, missing


def _name_of(value: float) -> str:
    return "NaN" if math.isnan(value) else ("infinite" if value > 0 else "minus infinite")


def label_points(
    figure: "Figure",
    axes: "Axes",
    points: Mapping[str, tuple[float, float, float]],
    names: Iterable[str],
    steps: Sequence[tuple[float, float]] = (),
) -> None:
    """Write these points' names where they overlap no other name, point or error bar: the nearest free place.

    points: name -> (x, y, error of y). steps: corners (x, y) of a line drawn in steps, across and then up, to be kept
    free of names as well.
    """
    figure.draw_without_rendering()  # settles the layout, without which nothing has a place
    scale = figure.dpi / 72  # pixels per point
    inside, taken = axes.get_window_extent().extents, [_extent(axes, *point, 5 * scale) for point in points.values()]
    for (x0, y0), (x1, y1) in itertools.pairwise(axes.transData.transform(steps) if steps else ()):
        taken += [(x0, y0 - scale, x1, y0 + scale), (x1 - scale, min(y0, y1), x1 + scale, max(y0, y1))]
    for name in names:
        time, bound, _ = points[name]
        text = axes.annotate(
            plain(name), (time, bound), (0, 0), textcoords="offset points", ha="center", va="center", size=9,
            color=INK, arrowprops={"arrowstyle": "-", "color": FAINT, "linewidth": 0.7, "shrinkB": 4},
        )  # fmt: skip
        text.set_in_layout(False)
        x, y = axes.transData.transform((time, bound))
        width, height = text.get_window_extent().size
        places = _places((x, y), (width, height), scale)
        box = min(places, key=lambda place: _clash(place, taken, inside))
        taken.append(box)
        text.set_position((((box[0] + box[2]) / 2 - x) / scale, ((box[1] + box[3]) / 2 - y) / scale))
        away = math.hypot(max(box[0] - x, x - box[2], 0), max(box[1] - y, y - box[3], 0))
        if text.arrow_patch is not None and away < 12 * scale:
            text.arrow_patch.set_visible(False)  # a name beside its point needs no line to it


def _extent(axes: "Axes", time: float, bound: float, error: float, radius: float) -> Box:
    """The box in pixels that a point and its error bar take."""
    error = error if math.isfinite(error) else 0.0
    (x, low), (_, middle), (_, high) = axes.transData.transform([(time, bound + e) for e in (-error, 0.0, error)])
    return x - radius, min(low, middle - radius), x + radius, max(high, middle + radius)


def _places(centre: Sequence[float], size: Sequence[float], scale: float) -> list[Box]:
    """Boxes of width and height `size` around a point, the nearest first, sideways before above."""
    boxes = []
    for radius, angle in itertools.product(range(7, 120, 7), (0, 180, 90, -90, 45, -45, 135, -135)):
        across, up = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        x = centre[0] + across * (radius * scale + size[0] / 2)
        y = centre[1] + up * (radius * scale + size[1] / 2)
        boxes.append((x - size[0] / 2, y - size[1] / 2, x + size[0] / 2, y + size[1] / 2))
    return boxes


def _clash(box: Box, taken: Sequence[Box], inside: Box) -> float:
    """Area of `box` that is taken already or lies outside."""

    def shared(other: Box) -> float:
        width = min(box[2], other[2]) - max(box[0], other[0])
        height = min(box[3], other[3]) - max(box[1], other[1])
        return max(width, 0.0) * max(height, 0.0)

    outside = (box[2] - box[0]) * (box[3] - box[1]) - shared(inside)
    return round(outside + sum(map(shared, taken)), 3)  # rounding errors are no clash
