"""The figure of order selection."""

import io

import numpy as np

from gpvae_jax.mixtures.order import select_order
from gpvae_jax.plots import order_curve


def test_gains_are_summed_and_the_chosen_order_is_marked():
    rng = np.random.default_rng(0)
    base = rng.normal(-90, 8, 500)
    bounds = [base + gain + 0.5 * rng.standard_normal(500) for gain in (0.0, 1.0, 1.6, 1.6)]
    selection = select_order(bounds)
    figure = order_curve(selection)
    (axes,) = figure.axes
    curve = axes.containers[0].lines[0]
    np.testing.assert_allclose(
        curve.get_ydata(), np.asarray(bounds).mean(axis=1) - base.mean() - (bounds[0] - base).mean(), atol=1e-9
    )
    mark = axes.lines[-1] if len(axes.lines[-1].get_xdata()) == 1 else axes.lines[-2]
    assert list(np.atleast_1d(mark.get_xdata())) == [selection.order] == [3]
    assert axes.get_ylabel() == "gain over order 1, summed (nats)"
    assert next(text.get_text() for text in axes.texts).startswith("+1.")
    assert f"chosen: {selection.order}" in [text.get_text() for text in axes.get_legend().get_texts()]
    figure.savefig(io.BytesIO(), format="png")
