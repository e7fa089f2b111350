"""Does one method truly beat another? Paired over the same test examples, with the seeds of training as a second error.

All on the host, in numpy float64; values[R, N] are per-example bounds in nats of R training seeds.
Equations: docs/mathematics.md.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

ALPHA = 0.05  # of the family of comparisons


class Paired(NamedTuple):
    """How much b is above a, in nats per example."""

    mean: float
    se: float  # standard error over the N examples, seeds averaged first; NaN for one example
    se_seeds: float  # standard error over the R seeds, of the mean over examples; NaN for one seed
    p_value: float  # two-sided Wilcoxon signed-rank test over the examples; 1 where it points against the mean
    num_seeds: int  # R, the smaller one where they differ

    def is_significant(self, p_value: float) -> bool:
        """By the p-value, after whatever correction, and by the seeds: Student's 1 − α interval over them is not at 0.

        With three seeds that interval is 4.3 of their standard errors to either side, with ten 2.3.
        """
        from scipy import stats

        if math.isnan(self.se_seeds):
            return p_value < ALPHA
        reach = float(stats.t.ppf(1 - ALPHA / 2, self.num_seeds - 1)) * self.se_seeds
        return p_value < ALPHA and abs(self.mean) > reach


class Verdict(NamedTuple):
    """Who is best, and who cannot be told from it."""

    best: str  # with the highest mean
    tied: tuple[str, ...]  # the others that are not significantly below it
    sentence: str


def paired(a: Float[np.ndarray, "R N"], b: Float[np.ndarray, "R N"]) -> Paired:
    """b less a, example by example (eq. 7.7). Raises ValueError where the examples differ in number.

    Equal numbers of seeds are paired too, seed r of one with seed r of the other: right whether they are independent
    trainings or, as after a warm start, share what the seed decides. Otherwise their error is that of a difference of
    two means. The test assumes nothing of the differences' distribution but its symmetry: where a few large differences
    make the mean and the many small ones the ranks, neither is called higher.
    """
    from scipy import stats

    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise ValueError(
            f"A paired comparison needs values [seeds, examples] of the same examples, got {a.shape} and {b.shape}."
        )
    with np.errstate(invalid="ignore"):  # infinite bounds give NaN, which is shown
        difference = b.mean(axis=0) - a.mean(axis=0)
        se = _standard_error(difference)
        by_seed = a.mean(axis=1), b.mean(axis=1)
        same = len(a) == len(b)
        seeds = _standard_error(by_seed[1] - by_seed[0]) if same else math.hypot(*map(_standard_error, by_seed))
        finite = bool(np.all(np.isfinite(difference)))
    num_seeds = min(len(a), len(b))
    if not finite:
        return Paired(float(difference.mean()), math.nan, seeds, math.nan, num_seeds)
    mean = float(difference.mean())
    side = "greater" if mean > 0 else "less"
    p_value = min(1.0, 2 * float(stats.wilcoxon(difference, alternative=side).pvalue)) if np.any(difference) else 1.0
    return Paired(mean, se, seeds, p_value, num_seeds)


def holm(p_values: Sequence[float]) -> Float[np.ndarray, " P"]:
    """p-values adjusted for their number so that the chance of any false finding stays below α (Holm 1979)."""
    p = np.asarray(p_values, np.float64)
    order = np.argsort(p)
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted


def verdict(values: Mapping[str, Float[np.ndarray, "R N"]], what: str = "bound") -> Verdict:
    """The method with the highest mean, held against every other one, corrected for their number by `holm`.

    Raises ValueError where there is none.
    """
    if not values:
        raise ValueError("A verdict needs the values of at least one method, got none.")
    means = {name: float(np.mean(v)) for name, v in values.items()}
    best = max(means, key=lambda name: -math.inf if math.isnan(means[name]) else means[name])
    others = [name for name in values if name != best]
    found = {name: paired(values[name], values[best]) for name in others}
    adjusted = holm([found[name].p_value for name in others])
    tied = tuple(n for n, p in zip(others, adjusted, strict=True) if not found[n].is_significant(float(p)))
    test = "Wilcoxon signed-rank tests over examples, Holm-corrected, p < 0.05, and beyond the seeds' 95 % interval"
    if not others:
        return Verdict(best, (), f"Only {best} was compared.")
    if tied:
        sentence = f"Highest {what}: {best}, with no significant difference from {', '.join(tied)} ({test})."
    else:
        sentence = f"Highest {what}: {best}, significantly above every other method ({test})."
    return Verdict(best, tied, sentence)


def _standard_error(values: np.ndarray) -> float:
    return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan
