"""Does a score per example say how hard the example is? Correlation, calibration, use, and outliers.

A score is any array [N], such as a GPVAE's variance of its error functions; difficulty is what it should predict, such
as the amortization gap in nats. All on the host, in numpy float64.
"""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

BOOTSTRAPS = 2000


class Interval(NamedTuple):
    """A statistic with its 95 % bootstrap interval over examples (percentiles)."""

    value: float
    low: float
    high: float


class Calibration(NamedTuple):
    """Difficulty by quantile of the score, from the lowest scores to the highest."""

    score: Float[np.ndarray, " Q"]  # mean in each group
    difficulty: Float[np.ndarray, " Q"]
    standard_error: Float[np.ndarray, " Q"]  # of the difficulty
    examples: Float[np.ndarray, " Q"]  # in each group


class Refinement(NamedTuple):
    """The mean bound when the fraction f of the examples that a rule puts first is refined; nats per example."""

    fraction: Float[np.ndarray, " N1"]  # 0, 1/N, …, 1
    by_score: Float[np.ndarray, " N1"]  # the highest scores first
    at_random: Float[np.ndarray, " N1"]  # the expectation over all orders: a straight line
    by_oracle: Float[np.ndarray, " N1"]  # the largest true gains first

    @property
    def efficiency(self) -> float:
        """Area between score and random over that between oracle and random: 1 is the oracle, 0 chance."""
        best = float(np.mean(self.by_oracle - self.at_random))
        return float(np.mean(self.by_score - self.at_random)) / best if best else math.nan


def spearman(score: Float[np.ndarray, " N"], difficulty: Float[np.ndarray, " N"], *, seed: int = 0) -> Interval:
    """Spearman's rank correlation. Raises ValueError on fewer than 3 examples, unequal numbers or non-finite values."""
    score, difficulty = _checked(score, difficulty)

    def statistic(rows: np.ndarray) -> float:
        a, b = _ranks(score[rows]), _ranks(difficulty[rows])
        a, b = a - a.mean(), b - b.mean()
        scale = math.sqrt((a @ a) * (b @ b))
        return float(a @ b) / scale if scale else math.nan

    count = len(score)
    rng = np.random.default_rng(seed)
    return _interval(statistic(np.arange(count)), [statistic(rng.integers(0, count, count)) for _ in range(BOOTSTRAPS)])


def calibration(
    score: Float[np.ndarray, " N"], difficulty: Float[np.ndarray, " N"], num_groups: int = 10
) -> Calibration:
    """Mean difficulty in groups of equal size by score. Raises ValueError as `spearman`, and without 2 per group."""
    score, difficulty = _checked(score, difficulty)
    if num_groups < 1 or len(score) < 2 * num_groups:
        raise ValueError(
            f"Calibration needs at least two examples in each of its groups, got {len(score)} for {num_groups}."
        )
    groups = np.array_split(np.argsort(score, kind="stable"), num_groups)
    return Calibration(
        np.array([score[g].mean() for g in groups]),
        np.array([difficulty[g].mean() for g in groups]),
        np.array([difficulty[g].std(ddof=1) / math.sqrt(len(g)) for g in groups]),
        np.array([float(len(g)) for g in groups]),
    )


def selective_refinement(
    score: Float[np.ndarray, " N"], bound: Float[np.ndarray, " N"], refined: Float[np.ndarray, " N"]
) -> Refinement:
    """Spend refinement (SAVI or SVI steps) on the examples with the highest scores: likelihood against compute.

    bound, refined: each example's bound before and after, in nats. The compute spent is proportional to the fraction
    refined. Raises ValueError as `spearman`.
    """
    score, bound = _checked(score, bound)
    _, refined = _checked(score, refined)
    gain, count = refined - bound, len(score)

    def curve(order: np.ndarray) -> np.ndarray:
        return bound.mean() + np.concatenate([[0.0], np.cumsum(gain[order])]) / count

    fraction = np.arange(count + 1) / count
    by_score, by_oracle = (np.argsort(-values, kind="stable") for values in (score, gain))
    return Refinement(fraction, curve(by_score), bound.mean() + fraction * gain.mean(), curve(by_oracle))


def auroc(inliers: Float[np.ndarray, " N"], outliers: Float[np.ndarray, " M"], *, seed: int = 0) -> Interval:
    """Chance that an outlier scores higher than an inlier, ties counting half: the area under the ROC curve.

    Raises ValueError where either is empty or not finite.
    """
    inside, outside = (np.asarray(values, np.float64) for values in (inliers, outliers))
    for values in (inside, outside):
        if values.ndim != 1 or not values.size or not np.all(np.isfinite(values)):
            raise ValueError(f"An AUROC needs finite scores [N] of in- and outliers, got shape {values.shape}.")

    def statistic(a: np.ndarray, b: np.ndarray) -> float:
        ranks = _ranks(np.concatenate([a, b]))[len(a) :]
        return float((ranks.sum() - len(b) * (len(b) - 1) / 2) / (len(a) * len(b)))

    rng = np.random.default_rng(seed)
    draws = [statistic(rng.choice(inside, len(inside)), rng.choice(outside, len(outside))) for _ in range(BOOTSTRAPS)]
    return _interval(statistic(inside, outside), draws)


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 0, the mean rank for ties."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts + 1) / 2)[inverse]


def _interval(value: float, draws: list[float]) -> Interval:
    low, high = np.nanpercentile(draws, (2.5, 97.5)) if np.any(np.isfinite(draws)) else (math.nan, math.nan)
    return Interval(value, float(low), float(high))


def _checked(score: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    score, other = np.asarray(score, np.float64), np.asarray(other, np.float64)
    enough = score.ndim == 1 and score.shape == other.shape and len(score) > 2
    if not enough or not np.all(np.isfinite(score)) or not np.all(np.isfinite(other)):
        raise ValueError(
            f"A score is judged on at least 3 examples with finite values, [N] in both, got shapes {score.shape} and "
            f"{other.shape}; leave out examples that are not finite."
        )
    return score, other
