"""Two-dimensional latent spaces."""

from typing import TYPE_CHECKING, Any

import numpy as np

from gpvae_jax.plots.style import INK, new_axes, plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Tol's "muted", ten colours that the colour-blind can tell apart
_COLORS = (
    "#332288", "#88CCEE", "#117733", "#DDCC77", "#CC6677", "#882255", "#44AA99", "#999933", "#AA4499", "#BBBBBB",
)  # fmt: skip


def latent_scatter(z_mean: np.ndarray, labels: np.ndarray | None = None) -> "Figure":
    """Posterior means z_mean[N, 2], one point per example, coloured by labels[N] if given (ten colours, then again).

    Raises ValueError where there are not two latents, or not one label per example.
    """
    z_mean = np.asarray(z_mean)
    if z_mean.ndim != 2 or z_mean.shape[1] != 2:
        raise ValueError(
            f"A scatter of latents needs posterior means [N, 2], got {z_mean.shape}; train with 2 latents."
        )
    if labels is not None and len(labels) != len(z_mean):
        raise ValueError(f"Got {len(labels)} labels for {len(z_mean)} examples; give one each.")
    figure, axes = new_axes(5.0)
    dots: dict[str, Any] = {"s": 9, "alpha": 0.75, "linewidths": 0}
    if labels is None:
        axes.scatter(*z_mean.T, color="#0072B2", **dots)
    else:
        labels = np.asarray(labels)
        for index, label in enumerate(np.unique(labels)):
            chosen = z_mean[labels == label].T
            axes.scatter(*chosen, color=_COLORS[index % len(_COLORS)], label=plain(str(label)), **dots)
        figure.legend(loc="outside right upper", frameon=False, fontsize=9, labelcolor=INK, markerscale=2)
    axes.set_aspect("equal", adjustable="datalim")
    axes.set(xlabel="z₁ (prior standard deviations)", ylabel="z₂ (prior standard deviations)")
    return figure
