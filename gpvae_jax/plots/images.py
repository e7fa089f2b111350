"""Examples side by side: images as one mosaic, vectors as small line plots in the same arrangement.

Examples are [n, H, W], [n, H, W, 1] (grey), [n, H, W, 3] (colour) or [n, D] (vectors, drawn as lines). Images
are shown with `value_range` from black to white and clipped there, as a photograph is; pixels that are NaN are
red. Vectors share one scale, that of their values, and have no use for `value_range`.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from gpvae_jax.plots.style import FAINT, INK, WIDTH, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_GAP = 0.06  # between neighbours, as a share of the longer side
_RED = (0.84, 0.15, 0.16)
_MAX_SIDE = 1.0  # inches: few examples are not blown up to the width of the page
_FINE = 64  # pixels: smaller images are enlarged by a whole factor, so that gaps may be narrower than pixels
_LABEL_SIZE = 9  # points

Range = tuple[float, float]


class _Block(NamedTuple):
    """Examples under one label, filling as many rows as they need."""

    label: str
    examples: np.ndarray  # [n, *D]


def drawable(shape: tuple[int, ...]) -> bool:
    """Whether examples of this shape, that of one, are images or vectors that can be drawn."""
    return 1 <= len(shape) <= 3 and (len(shape) < 3 or shape[-1] in (1, 3))


def images_grid(images: np.ndarray, columns: int, value_range: Range = (0.0, 1.0)) -> "Figure":
    """Examples images[n, *D] in rows of `columns`.

    Raises ValueError where they are neither images nor vectors.
    """
    return _arrange([_Block("", np.asarray(images))], columns, value_range)


def reconstructions(x: np.ndarray, by_method: Mapping[str, np.ndarray], value_range: Range = (0.0, 1.0)) -> "Figure":
    """Inputs x[n, *D] in the first row and beneath it, a row per method, its reconstructions [n, *D].

    Ten to twelve examples read well. Raises ValueError where a method's shape is not that of x.
    """
    x = np.asarray(x)
    blocks = [_Block("input", x)]
    for name, images in by_method.items():
        if np.shape(images) != x.shape:
            raise ValueError(f"Reconstructions of '{name}' have shape {np.shape(images)}, but the inputs {x.shape}.")
        blocks.append(_Block(name, np.asarray(images)))
    return _arrange(blocks, x.shape[0] if x.ndim else 1, value_range)


def prior_samples(by_method: Mapping[str, np.ndarray], columns: int = 12, value_range: Range = (0.0, 1.0)) -> "Figure":
    """Samples [n, *D] of each method's generative model, in rows of `columns` beside the method's name.

    Raises ValueError where there is no method, or the methods' examples differ in shape.
    """
    if not by_method:
        raise ValueError("Prior samples need at least one method, got none.")
    blocks = [_Block(name, np.asarray(images)) for name, images in by_method.items()]
    shapes = {block.examples.shape[1:] for block in blocks}
    if len(shapes) > 1:
        raise ValueError(f"Samples of one figure must have one shape, got {', '.join(map(str, sorted(shapes)))}.")
    return _arrange(blocks, columns, value_range)


def _check(blocks: list[_Block], columns: int, value_range: Range) -> None:
    shape = blocks[0].examples.shape[1:]
    if not drawable(shape):
        raise ValueError(
            f"Examples of shape {shape} cannot be drawn; expected images [H, W], [H, W, 1] or [H, W, 3], "
            "or vectors [D]."
        )
    if columns < 1 or not all(block.examples.size for block in blocks):
        raise ValueError("A picture of examples needs at least one example under every label, and one column.")
    if not value_range[0] < value_range[1]:
        raise ValueError(f"value_range must run from low to high, got {value_range}.")


def _arrange(blocks: list[_Block], columns: int, value_range: Range) -> "Figure":
    _check(blocks, columns, value_range)
    shape = blocks[0].examples.shape[1:]
    columns = min(columns, max(len(block.examples) for block in blocks))
    height, width = shape[:2] if len(shape) > 1 else (3, 4)
    fine = -(-_FINE // max(height, width))
    gap = max(1, round(_GAP * max(height, width) * fine)) / fine
    places, size = _places(blocks, columns, (height, width), gap)
    widest = _MAX_SIDE * size[1] / max(height, width)
    figure, axes = _canvas(blocks, size, widest, 0.3 if len(shape) == 1 else 0.04)
    if len(shape) == 1:
        _draw_lines(axes, blocks, places, (height, width))
    else:
        _draw_images(axes, blocks, places, size, fine, value_range)
    middles = [(place[0, 0] + place[-1, 0] + height) / 2 for place in places]
    axes.set_yticks(middles, [plain(block.label) for block in blocks])
    axes.set(xlim=(0, size[1]), ylim=(size[0], 0))
    return figure


def _places(
    blocks: list[_Block], columns: int, cell: tuple[float, float], gap: float
) -> tuple[list[np.ndarray], tuple[float, float]]:
    """Top left corner of every example, [n, 2] (down, across) for each block, and the size of the whole."""
    places, top = [], 0.0
    wrapped = any(len(block.examples) > columns for block in blocks)
    for block in blocks:
        row, column = np.divmod(np.arange(len(block.examples)), columns)
        places.append(np.stack([top + row * (cell[0] + gap), column * (cell[1] + gap)], axis=1))
        top += (row[-1] + 1) * (cell[0] + gap) + (3 * gap if wrapped else 0)
    bottom = places[-1][-1, 0] + cell[0]
    return places, (bottom, columns * (cell[1] + gap) - gap)


def _canvas(blocks: list[_Block], size: tuple[float, float], widest: float, below: float) -> tuple["Figure", "Axes"]:
    """Axes of exactly the whole's proportions, with the labels on the left and `below` inches beneath."""
    from matplotlib.figure import Figure

    labels, edge = max(_text_width(block.label) for block in blocks), 0.04
    left = labels + 0.12 if labels else edge
    width = min(widest, max(WIDTH - left - edge, WIDTH / 2))
    height = width * size[0] / size[1]
    full = (left + width + edge, below + height + edge)
    figure = Figure(full, facecolor="white")
    axes = figure.add_axes((left / full[0], below / full[1], width / full[0], height / full[1]))
    axes.spines[:].set_visible(False)
    axes.set_xticks([])
    axes.tick_params(length=0, pad=5, labelcolor=INK, labelsize=_LABEL_SIZE)
    return figure, axes


def _text_width(text: str) -> float:
    """Inches that a label takes."""
    from matplotlib.textpath import TextPath

    return TextPath((0, 0), plain(text), size=_LABEL_SIZE).get_extents().width / 72 if text.strip() else 0.0


def _draw_images(
    axes: "Axes",
    blocks: list[_Block],
    places: list[np.ndarray],
    size: tuple[float, float],
    fine: int,
    value_range: Range,
) -> None:
    canvas = np.ones((round(size[0] * fine), round(size[1] * fine), 3))
    for block, corners in zip(blocks, places, strict=True):
        for image, corner in zip(_colors(block.examples, value_range), corners, strict=True):
            down, across = np.rint(corner * fine).astype(int)
            enlarged = image.repeat(fine, axis=0).repeat(fine, axis=1)
            canvas[down : down + len(enlarged), across : across + enlarged.shape[1]] = enlarged
    axes.imshow(canvas, extent=(0, size[1], size[0], 0), interpolation="antialiased")


def _colors(images: np.ndarray, value_range: Range) -> np.ndarray:
    """Images to red, green and blue between 0 and 1, [n, H, W, 3]."""
    low, high = value_range
    images = images if images.ndim == 4 else images[..., None]
    scaled = np.broadcast_to((images - low) / (high - low), (*images.shape[:3], 3))
    missing = np.isnan(scaled).any(axis=-1, keepdims=True)
    return np.where(missing, _RED, np.clip(np.nan_to_num(scaled, posinf=1.0, neginf=0.0), 0.0, 1.0))


def _draw_lines(axes: "Axes", blocks: list[_Block], places: list[np.ndarray], cell: tuple[int, int]) -> None:
    """Vectors [D] against their index; all share one scale, that of their finite values."""
    from matplotlib.collections import LineCollection, PatchCollection
    from matplotlib.patches import Rectangle

    values = np.concatenate([block.examples for block in blocks]).astype(np.float64)
    finite = values[np.isfinite(values)]
    low, high = (float(np.min(finite)), float(np.max(finite))) if finite.size else (0.0, 1.0)
    corners = np.concatenate(places)
    inner = np.linspace(0.06, 0.94, values.shape[1]) if values.shape[1] > 1 else np.array([0.5])
    heights = 0.92 - 0.84 * (values - low) / (high - low or 1.0)
    lines = np.stack(
        [corners[:, 1:] + cell[1] * np.broadcast_to(inner, values.shape), corners[:, :1] + cell[0] * heights],
        axis=-1,
    )
    frames = [Rectangle((across, down), cell[1], cell[0]) for down, across in corners]
    axes.add_collection(PatchCollection(frames, facecolor="none", edgecolor=FAINT, linewidth=0.5, clip_on=False))
    axes.add_collection(LineCollection(list(lines), colors="#0072B2", linewidths=0.9))
    if values.shape[1] <= 16:  # so few that each value is a point of its own
        axes.plot(*lines.reshape(-1, 2).T, ".", color="#0072B2", markersize=3)
    label = f"features 1 to {values.shape[1]}, from {low:.3g} to {high:.3g} in each panel".replace("-", "−")
    axes.set_xlabel(label, size=9, color=INK)
