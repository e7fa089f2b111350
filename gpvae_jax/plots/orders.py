"""How many components a mixture needs: the held-out bound against the order, and each step's gain."""

from typing import TYPE_CHECKING

import numpy as np

from gpvae_jax.plots.style import FAINT, INK, new_axes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from gpvae_jax.mixtures.order import OrderSelection

_COLOR, _CHOSEN = "#0072B2", "#D55E00"


def order_curve(selection: "OrderSelection") -> "Figure":
    """Gains in the held-out bound, summed from the first order, with the paired standard errors summed in squares.

    The bounds' own errors are far larger than the gains', the examples being the same, so gains are what is drawn;
    the chosen order is marked.
    """
    figure, axes = new_axes(3.6)
    orders = np.asarray(selection.orders)
    total = np.concatenate([[0.0], np.cumsum(selection.gain)])
    error = np.concatenate([[0.0], np.sqrt(np.cumsum(np.square(selection.gain_standard_error)))])
    axes.axhline(0.0, color=FAINT, linewidth=0.8)
    axes.errorbar(orders, total, error, color=_COLOR, marker="o", markersize=5, capsize=3, label="held-out gain")
    chosen = selection.orders.index(selection.order)
    axes.plot(
        orders[chosen], total[chosen], "o", color=_CHOSEN, markersize=11, fillstyle="none", markeredgewidth=2,
        label=f"chosen: {selection.order}",
    )  # fmt: skip
    for order, gain, se, height in zip(
        orders[1:], selection.gain, selection.gain_standard_error, total[1:], strict=True
    ):
        text = f"{gain:+.2f} ± {se:.2f}"
        axes.annotate(text, (order, height), (7, -12), textcoords="offset points", ha="left", fontsize=8, color=INK)
    axes.set_xticks(orders)
    axes.margins(0.08, 0.2)
    axes.set(xlabel="number of components", ylabel=f"gain over order {orders[0]}, summed (nats)")
    axes.legend(loc="lower right", frameon=False, fontsize=9, labelcolor=INK)
    return figure
