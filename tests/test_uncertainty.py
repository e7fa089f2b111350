"""Scores against difficulty: closed forms, independent references, and intervals that cover."""

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from gpvae_jax.evaluate import uncertainty as module
from gpvae_jax.evaluate.uncertainty import auroc, calibration, selective_refinement, spearman

RNG = np.random.default_rng(0)


def related(rho: float, count: int, seed: int = 1) -> np.ndarray:
    """Two normal arrays [2, N] of correlation rho."""
    return np.random.default_rng(seed).multivariate_normal([0, 0], [[1, rho], [rho, 1]], count).T


def test_spearman_is_scipys_ties_included():
    a, b = related(0.6, 300)
    for score, other in ((a, b), (np.round(a), np.round(2 * b)), (np.exp(a), -b)):
        assert spearman(score, other).value == pytest.approx(stats.spearmanr(score, other).statistic, abs=1e-12)


def test_the_interval_covers(monkeypatch):
    monkeypatch.setattr(module, "BOOTSTRAPS", 300)
    truth = 6 / np.pi * np.arcsin(0.5 / 2)  # Spearman's correlation of normal variables
    found = [spearman(*related(0.5, 100, seed)) for seed in range(100)]
    covered = np.mean([f.low <= truth <= f.high for f in found])
    assert 0.86 <= covered <= 1.0  # 0.95 less four binomial errors


def test_a_constant_score_says_nothing():
    found = spearman(np.ones(20), RNG.standard_normal(20))
    assert np.isnan([*found]).all()


def test_calibration_by_quantiles():
    difficulty = np.arange(100.0)
    found = calibration(difficulty**2, difficulty, 10)
    np.testing.assert_allclose(found.difficulty, np.arange(10) * 10 + 4.5)
    np.testing.assert_allclose(found.standard_error, np.std(np.arange(10), ddof=1) / np.sqrt(10))
    assert np.all(np.diff(found.score) > 0)
    assert found.examples.sum() == 100
    with pytest.raises(ValueError, match="two examples in each"):
        calibration(difficulty, difficulty, 51)


def test_refinement_lies_between_chance_and_the_oracle():
    gain = np.exp(RNG.standard_normal(500))
    bound = -90 - gain
    good = selective_refinement(gain + 0.5 * RNG.standard_normal(500), bound, bound + gain)
    assert np.all(good.by_oracle >= good.by_score - 1e-9)
    assert 0.3 < good.efficiency < 1
    for curve in (good.by_score, good.at_random, good.by_oracle):
        assert curve[0] == pytest.approx(bound.mean())
        assert curve[-1] == pytest.approx((bound + gain).mean())
    assert selective_refinement(gain, bound, bound + gain).efficiency == pytest.approx(1.0)
    assert abs(selective_refinement(RNG.standard_normal(500), bound, bound + gain).efficiency) < 0.25
    assert np.isnan(selective_refinement(gain, bound, bound).efficiency)


def test_auroc_is_sklearns():
    inside, outside = np.round(RNG.standard_normal(200), 1), np.round(RNG.standard_normal(150) + 0.7, 1)
    expected = roc_auc_score(np.repeat([0, 1], [200, 150]), np.concatenate([inside, outside]))
    found = auroc(inside, outside)
    assert found.value == pytest.approx(expected, abs=1e-12)
    assert found.low < expected < found.high
    assert found.high - found.low == pytest.approx(4 * np.sqrt(expected * (1 - expected) / 150), rel=0.6)
    assert auroc([0.0, 1.0], [2.0, 3.0]).value == 1.0


@pytest.mark.parametrize("bad", [np.ones(2), np.ones((4, 2)), np.array([1.0, np.nan, 2.0]), np.ones(5)])
def test_what_cannot_be_judged_is_refused(bad):
    with pytest.raises(ValueError, match="at least 3 examples with finite values"):
        spearman(bad, np.arange(3.0))
    with pytest.raises(ValueError, match="needs finite scores"):
        auroc([], [1.0])
