"""The figures of gaps, refinement and calibration."""

import io

import numpy as np
import pytest

from gpvae_jax.evaluate.uncertainty import calibration, selective_refinement
from gpvae_jax.plots import GapBar, calibration_curves, gap_bars, refinement_curves
from gpvae_jax.report import Estimate

RNG = np.random.default_rng(0)
GAIN = np.exp(RNG.standard_normal(200))


def test_gaps_are_stacked_and_named():
    bars = [
        GapBar("vae: q* factorised", Estimate(1.5, 0.1), Estimate(2.5, 0.2)),
        GapBar("vae: q* flow", Estimate(-0.2, 0.1), Estimate(4.2, 0.2)),
    ]
    figure = gap_bars(bars)
    (axes,) = figure.axes
    first, second, third, fourth = axes.patches[:4]
    assert (first.get_x(), first.get_width()) == (0, 1.5)
    assert (second.get_x(), second.get_width()) == (1.5, 2.5)  # begins where the first ends
    assert third.get_width() == pytest.approx(-0.2)
    assert fourth.get_x() == 0  # a negative part takes nothing off the other
    assert [text.get_text() for text in axes.get_yticklabels()] == [bar.label for bar in bars]
    figure.savefig(io.BytesIO(), format="png")
    with pytest.raises(ValueError, match="at least one bar"):
        gap_bars([])


def test_refinement_lies_between_chance_and_the_oracle():
    found = selective_refinement(GAIN + RNG.standard_normal(200), -90 - GAIN, np.full(200, -90.0))
    figure = refinement_curves({"score": found})
    (axes,) = figure.axes
    oracle, score, chance = (line.get_ydata() for line in axes.lines)
    assert np.all(oracle >= score - 1e-9)
    assert score.mean() > chance.mean()
    assert f"score ({100 * found.efficiency:.0f} %" in axes.get_legend().get_texts()[1].get_text()
    figure.savefig(io.BytesIO(), format="png")
    with pytest.raises(ValueError, match="at least one score"):
        refinement_curves({})


def test_calibration_is_drawn_by_quantile():
    figure = calibration_curves({"score": calibration(GAIN**2, GAIN, 5)})
    (axes,) = figure.axes
    line = axes.containers[0].lines[0]
    np.testing.assert_allclose(np.asarray(line.get_xdata(), np.float64), [10, 30, 50, 70, 90])
    assert np.all(np.diff(line.get_ydata()) > 0)
    figure.savefig(io.BytesIO(), format="png")
    with pytest.raises(ValueError, match="at least one score"):
        calibration_curves({})
