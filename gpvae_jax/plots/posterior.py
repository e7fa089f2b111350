"""Posteriors over two latents: the true one's contours, with what a method takes it for."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from gpvae_jax.plots.style import FAINT, INK, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# drops of log p(z|x) below its top, nats: the contours' meaning does not hang on the posterior's width
LEVELS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
_SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")
_COLORS = ("#D55E00", "#0072B2", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


class Gaussian(NamedTuple):
    """One Gaussian of a posterior, drawn as its one- and two-standard-deviation ellipses."""

    label: str
    mean: np.ndarray  # [2]
    std: np.ndarray  # [2]
    weight: float = 1.0  # of a mixture: the lines' strength


class Path(NamedTuple):
    """Where a search has been, drawn as a line with a dot per step, its end larger."""

    label: str
    points: np.ndarray  # [K, 2]


class Panel(NamedTuple):
    """One example: its true posterior, what stands over it, and the images below it."""

    title: str
    first: np.ndarray  # grid values [G] of the first latent
    second: np.ndarray  # [G] of the second
    log_density: np.ndarray  # log p(z|x) [G, G], nats
    gaussians: Sequence[Gaussian] = ()
    samples: np.ndarray | None = None  # [n, 2]
    images: Sequence[tuple[str, np.ndarray]] = ()  # (what it is, [H, W] or [H, W, C] in [0, 1])
    coordinates: tuple[int, int] = (0, 1)  # which latents the axes are, counted from 0
    paths: Sequence[Path] = ()


def posterior_panels(panels: Sequence[Panel], columns: int = 6) -> "Figure":
    """Contours of each true posterior at fixed drops of log density, Gaussians and samples over it, images below.

    Raises ValueError where there is nothing to draw.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    if not panels:
        raise ValueError("A figure of posteriors needs at least one panel.")
    columns = min(columns, len(panels))
    rows, with_images = -(-len(panels) // columns), any(panel.images for panel in panels)
    heights = [2.2, 0.9] if with_images else [2.2]
    figure = Figure((2.1 * columns + 0.6, rows * sum(heights) + 0.9), layout="constrained", facecolor="white")
    grid = figure.add_gridspec(rows * len(heights), columns, height_ratios=heights * rows)
    labels: dict[str, str] = {}
    for number, panel in enumerate(panels):
        row, column = divmod(number, columns)
        axes = figure.add_subplot(grid[row * len(heights), column])
        _draw_posterior(axes, panel, labels)
        if panel.images:
            _draw_images(figure, grid[row * len(heights) + 1, column], panel.images)
    lines = [Line2D([], [], color="#009E73", linewidth=1.2, label="true posterior: " + _levels())]
    lines += [Line2D([], [], color=color, linewidth=1.4, label=plain(label)) for label, color in labels.items()]
    if any(panel.samples is not None for panel in panels):
        lines.append(Line2D([], [], color=INK, marker=".", linestyle="", markersize=4, label="samples"))
    figure.legend(handles=lines, loc="outside lower center", ncols=min(4, len(lines)), frameon=False, fontsize=8)
    return figure


def _levels() -> str:
    return ", ".join(f"{level:g}" for level in LEVELS) + " nats below its top"


def _draw_posterior(axes: "Axes", panel: Panel, labels: dict[str, str]) -> None:
    from matplotlib.patches import Ellipse

    drop = panel.log_density.max() - panel.log_density
    axes.contour(
        panel.first, panel.second, drop.T, levels=LEVELS, colors="#009E73", linewidths=np.linspace(1.6, 0.5, 6)
    )
    if panel.samples is not None:
        axes.plot(*np.asarray(panel.samples).T, ".", color=INK, markersize=1.5, alpha=0.5)
    for gaussian in panel.gaussians:
        color = labels.setdefault(gaussian.label, _COLORS[len(labels) % len(_COLORS)])
        for scale, style in ((1, "-"), (2, "--")):
            size = 2 * scale * np.asarray(gaussian.std)
            alpha = 0.45 + 0.55 * min(1.0, gaussian.weight)
            axes.add_patch(
                Ellipse(tuple(gaussian.mean), *size, fill=False, edgecolor=color, linestyle=style, alpha=alpha)
            )
    for path in panel.paths:
        color = labels.setdefault(path.label, _COLORS[len(labels) % len(_COLORS)])
        axes.plot(*path.points.T, "-o", color=color, linewidth=1.0, markersize=1.8, zorder=4)
        axes.plot(*path.points[-1], "o", color=color, markersize=3.5, zorder=5)
    axes.set_title(plain(panel.title), fontsize=8, color=INK)
    for i, (axis, along) in enumerate((("x", panel.first), ("y", panel.second))):
        ends = [along[0], along[-1], *(g.mean[i] + sign * 2.2 * g.std[i] for g in panel.gaussians for sign in (-1, 1))]
        axes.set(**{f"{axis}lim": (min(ends), max(ends))})  # a Gaussian beside the posterior is to be seen
    names = [f"z{str(number + 1).translate(_SUBSCRIPTS)}" for number in panel.coordinates]
    axes.set_xlabel(names[0], fontsize=8, labelpad=1)
    axes.set_ylabel(names[1], fontsize=8, labelpad=1)
    axes.tick_params(labelsize=6, color=FAINT, labelcolor=INK)
    axes.spines[:].set_color(FAINT)


def _draw_images(figure: "Figure", place, images: Sequence[tuple[str, np.ndarray]]) -> None:  # type: ignore[no-untyped-def]
    inner = place.subgridspec(1, len(images))
    for number, (what, image) in enumerate(images):
        axes = figure.add_subplot(inner[0, number])
        image = np.asarray(image)
        axes.imshow(
            image.squeeze(-1) if image.ndim == 3 and image.shape[-1] == 1 else image, cmap="gray", vmin=0, vmax=1
        )
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_xlabel(plain(what), fontsize=7, color=INK)
