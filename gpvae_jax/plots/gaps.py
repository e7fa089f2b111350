"""Where the nats go: approximation and amortization gap as stacked bars."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from gpvae_jax.plots.style import INK, new_axes, plain
from gpvae_jax.report.rows import Estimate

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_APPROXIMATION, _AMORTIZATION = "#0072B2", "#E69F00"


class GapBar(NamedTuple):
    """One bar, in nats; the two gaps add up to the inference gap."""

    label: str
    approximation: Estimate
    amortization: Estimate


def gap_bars(bars: Sequence[GapBar]) -> "Figure":
    """A bar per posterior, the first on top, each part with ± one standard error. Raises ValueError without bars.

    A gap below zero, which noise and unfinished searches can make, is drawn to the left of zero.
    """
    if not bars:
        raise ValueError("A figure of gaps needs at least one bar, got none.")
    figure, axes = new_axes(1.3 + 0.42 * len(bars))
    axes.grid(visible=False, axis="y")
    places = range(len(bars), 0, -1)
    for place, bar in zip(places, bars, strict=True):
        first, second = bar.approximation, bar.amortization
        start = max(first.mean, 0.0) if second.mean >= 0 else 0.0
        error: dict[str, Any] = {"ecolor": INK, "capsize": 2.5, "error_kw": {"elinewidth": 1.0}}
        axes.barh(place, first.mean, 0.62, xerr=first.se, color=_APPROXIMATION, **error)
        axes.barh(place, second.mean, 0.62, left=start, xerr=second.se, color=_AMORTIZATION, **error)
    axes.axvline(0.0, color=INK, linewidth=0.8)
    axes.set_yticks(list(places), [plain(bar.label) for bar in bars])
    axes.set_xlabel("nats per example, ± one standard error")
    handles = [axes.barh(0, 0, color=color)[0] for color in (_APPROXIMATION, _AMORTIZATION)]
    axes.set_ylim(0.4, len(bars) + 0.6)
    names = ["approximation gap: log p̂ − L[q*]", "amortization gap: L[q*] − L[q]"]
    figure.legend(handles, names, loc="outside upper center", ncols=2, frameon=False, fontsize=9, labelcolor=INK)
    return figure
