"""What the figures have in common: axes, one colour and marker per method."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:  # importing matplotlib takes a third of a second, which not every command needs to spend
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 6.4  # inches, of every figure
INK, FAINT = "#333333", "#999999"  # of text and of lines that only help
# Okabe & Ito (2008) without their yellow, which is too pale on white
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
_MARKERS = "osD^vPX"


class Style(NamedTuple):
    """How one method looks in every figure of a report."""

    color: str
    marker: str


def method_styles(names: Iterable[str]) -> dict[str, Style]:
    """A colour and marker for each method; the colours can be told apart by the colour-blind.

    Beyond seven methods colours come again with other markers, all different up to 49.
    """
    count = len(_COLORS)
    return {
        name: Style(_COLORS[i % count], _MARKERS[(i + i // count) % count])
        for i, name in enumerate(dict.fromkeys(names))
    }


def new_axes(height: float, width: float = WIDTH) -> tuple["Figure", "Axes"]:
    """A figure (inches) with one axes in the common style; to be saved by `figure.savefig`."""
    from matplotlib.figure import Figure

    figure = Figure((width, height), layout="constrained", facecolor="white")
    return figure, in_style(figure.add_subplot())


def in_style(axes: "Axes") -> "Axes":
    """The same axes in the common style."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.grid(color="#e3e3e3", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(color=FAINT, labelcolor=INK, labelsize=9)
    axes.xaxis.label.set(color=INK, size=10)
    axes.yaxis.label.set(color=INK, size=10)
    return axes


def plain(text: str) -> str:
    """Text that matplotlib shows as it is, where it would read $…$ as mathematics."""
    return text.replace("$", r"\$")


def marker(style: Style) -> dict[str, Any]:
    """Arguments of `Axes.plot` for one point of a method."""
    return {
        "marker": style.marker, "color": style.color, "markersize": 7, "markeredgecolor": "white",
        "linestyle": "none", "zorder": 5,
    }  # fmt: skip


def checked_styles(names: Iterable[str], styles: Mapping[str, Style] | None) -> Mapping[str, Style]:
    """The styles given, or made for these names; ValueError, naming them, where some have none."""
    names = list(names)
    styles = method_styles(names) if styles is None else styles
    missing = [name for name in names if name not in styles]
    if missing:
        raise ValueError(f"The styles lack {', '.join(missing)}; make them with method_styles over every method.")
    return styles
