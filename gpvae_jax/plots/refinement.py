"""What refining only the examples that a score calls hard wins, and how difficulty grows with the score."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from gpvae_jax.plots.style import FAINT, INK, method_styles, new_axes, plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from gpvae_jax.evaluate.uncertainty import Calibration, Refinement


def refinement_curves(by_score: "Mapping[str, Refinement]") -> "Figure":
    """Mean bound against the share of examples refined, a line per score, between chance and the oracle.

    All must be refinements of the same examples. Raises ValueError where there are none.
    """
    if not by_score:
        raise ValueError("Refinement curves need at least one score, got none.")
    figure, axes = new_axes(4.0)
    any_score = next(iter(by_score.values()))
    share = 100 * any_score.fraction
    axes.plot(share, any_score.by_oracle, color=INK, linewidth=1.2, label="oracle: the true gains")
    styles = method_styles(by_score)
    for number, (name, found) in enumerate(by_score.items()):
        label = f"{plain(name)} ({100 * found.efficiency:.0f} % of the oracle's advantage)".replace("-", "−")
        dashes = (0, (6, 2 * number)) if number else "-"  # where two scores agree, both are seen
        axes.plot(share, found.by_score, color=styles[name].color, linewidth=1.8, linestyle=dashes, label=label)
    axes.plot(share, any_score.at_random, color=FAINT, linewidth=1.2, linestyle=(0, (4, 2)), label="chosen at random")
    axes.set(xlabel="examples refined (%), in proportion to the compute spent", ylabel="ELBO (nats per example)")
    axes.margins(x=0.01)
    axes.legend(loc="lower right", frameon=False, fontsize=9, labelcolor=INK)
    return figure


def calibration_curves(by_score: "Mapping[str, Calibration]") -> "Figure":
    """Mean difficulty by quantile of each score, ± one standard error; a flat line says nothing, a rising one does.

    Raises ValueError where there are none.
    """
    if not by_score:
        raise ValueError("Calibration curves need at least one score, got none.")
    figure, axes = new_axes(3.6)
    for (name, found), style in zip(by_score.items(), method_styles(by_score).values(), strict=True):
        groups = len(found.difficulty)
        place = [100 * (i + 0.5) / groups for i in range(groups)]
        axes.errorbar(
            place, found.difficulty, found.standard_error, color=style.color, marker=style.marker, markersize=5,
            capsize=2.5, label=plain(name),
        )  # fmt: skip
    axes.set(xlabel="quantile of the score (%)", ylabel="amortization gap (nats)")
    axes.legend(frameon=False, fontsize=9, labelcolor=INK)
    return figure
