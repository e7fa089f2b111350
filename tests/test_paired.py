"""Paired comparisons: error bars that hold, corrections that are Holm's, and verdicts that do not overreach."""

import numpy as np
import pytest

from gpvae_jax.evaluate.paired import ALPHA, holm, paired, verdict

RNG = np.random.default_rng(0)


def bounds(gain=0.0, seeds=3, count=400, seed_spread=0.01, noise=0.5):
    hardness = np.random.default_rng(1).normal(-90, 10, count)
    runs = RNG.normal(0, seed_spread, (seeds, 1))
    return hardness + gain + runs + RNG.normal(0, noise, (seeds, count))


def test_the_gain_and_its_errors():
    gains = [paired(bounds(), bounds(0.3)) for _ in range(200)]
    z = [(g.mean - 0.3) / np.hypot(g.se, g.se_seeds) for g in gains]
    # both errors hold the examples' noise, so together they are a little too wide, never too narrow
    assert 0.4 < np.std(z) < 1.1
    assert np.mean([g.se for g in gains]) == pytest.approx(0.5 * np.sqrt(2 / 3 / 400), rel=0.05)
    assert all(g.p_value < 1e-3 for g in gains)


def test_the_error_over_seeds_is_that_of_two_sets_of_runs():
    a, b = np.array([[1.0, 1.0], [3.0, 3.0]]), np.array([[5.0, 5.0], [5.0, 5.0], [8.0, 8.0]])
    assert paired(a, b).se_seeds == pytest.approx(np.hypot(np.sqrt(2) / np.sqrt(2), np.std([5, 5, 8], ddof=1) / 3**0.5))
    assert np.isnan(paired(a[:1], b).se_seeds)


def test_equal_seeds_are_paired():
    """What both owe to the seed, such as the run they start from, is no error of their difference."""
    a = bounds(seed_spread=5.0, noise=0.0, gain=0.0)
    gain = paired(a, a + 0.3)
    assert gain.se_seeds < 1e-9
    assert gain.mean == pytest.approx(0.3)


def test_false_findings_are_as_rare_as_they_should_be():
    p = [paired(bounds(seeds=1, seed_spread=0), bounds(seeds=1, seed_spread=0)).p_value for _ in range(400)]
    assert abs(np.mean(np.array(p) < ALPHA) - ALPHA) < 4 * np.sqrt(ALPHA * (1 - ALPHA) / 400)


def test_holm():
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm([0.5, 0.9]), [1.0, 1.0])
    assert len(holm([])) == 0


def test_a_mean_that_few_examples_make_is_no_finding():
    """Nine tenths of the examples are a little worse: the ranks are clear, and against the mean."""
    a = np.zeros((3, 1000))
    b = a + np.where(np.arange(1000) % 10 == 0, 5.0, -0.1) + np.random.default_rng(0).normal(0, 0.01, a.shape)
    assert paired(a, b).mean > 0.4
    assert paired(a, b).p_value == pytest.approx(1.0)
    assert verdict({"a": a, "b": b}).tied == ("a",)
    assert paired(a, b - 4.0).p_value < 1e-50


def test_a_clear_winner_is_named_and_a_tie_is_called_one():
    clear = verdict({"vae": bounds(), "svi": bounds(1.0), "iaf": bounds(0.2)}, "IWAE-100")
    assert (clear.best, clear.tied) == ("svi", ())
    assert "Highest IWAE-100: svi, significantly above every other method" in clear.sentence
    same = bounds()
    tie = verdict({"vae": same, "iaf": same + 0.0, "savi": same - 2.0})
    assert (tie.best, tie.tied) == ("vae", ("iaf",))
    assert "no significant difference from iaf" in tie.sentence
    assert verdict({"vae": same}).sentence == "Only vae was compared."


def test_a_gain_within_the_seeds_spread_is_no_finding():
    one, other = bounds(seed_spread=0), bounds(0.05, seed_spread=0)
    other += np.array([[-0.4], [0.0], [0.4]])
    gain = paired(one, other)
    assert gain.se_seeds > abs(gain.mean) / 2
    assert not gain.is_significant(1e-9)
    assert gain._replace(se_seeds=np.nan).is_significant(1e-9)
    for num_seeds, reach in ((2, 12.706), (3, 4.303), (10, 2.262)):  # from a table of Student's t
        at = gain._replace(se_seeds=1.0, num_seeds=num_seeds)
        assert not at._replace(mean=reach - 0.001).is_significant(1e-9)
        assert at._replace(mean=-reach - 0.001).is_significant(1e-9)
        assert not at._replace(mean=2 * reach).is_significant(0.06)


def test_identical_and_broken_values():
    same = bounds()
    assert paired(same, same).p_value == 1.0
    broken = same.copy()
    broken[0, 0] = -np.inf
    assert paired(same, broken).mean == -np.inf
    assert np.isnan(paired(same, broken).p_value)
    assert verdict({"good": same, "broken": np.full_like(same, np.nan)}).best == "good"
    with pytest.raises(ValueError, match="same examples"):
        paired(same, same[:, 1:])
