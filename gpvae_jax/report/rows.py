"""What a comparison knows of each method: means over the same test examples, with their standard errors."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Estimate(NamedTuple):
    """A mean over test examples and its standard error."""

    mean: float
    se: float


# significantly above all others; the highest, or not significantly below it, of several; significantly below
VERDICTS = BEST, TIED, BELOW = ("best", "no significant difference", "below")


class CompareRow(NamedTuple):
    """What a comparison knows of one method. Bounds are in nats per example; a plain (mean, se) is an estimate too.

    All rows of one table must come from the same test examples, with the same numbers of samples. A bound that is
    not finite is handed in as it is, and shown as it is.
    """

    name: str
    num_params: int  # every trainable number, θ and φ
    epochs: int  # trained, those of the patience included
    train_seconds: float
    num_examples: int  # test examples N behind every mean and standard error
    elbo: Estimate
    iwae: dict[int, Estimate]  # number of samples K -> IWAE-K
    ess: float  # mean effective sample size of the largest K
    latency_ms: float | None  # to infer q(z|x) of one batch; None where it was not measured
    difference: Estimate | None = None  # IWAE of the largest K, less the first row's, paired; None in the first row
    difference_se_seeds: float | None = None  # its standard error over training seeds; None for one seed
    p_value: float | None = None  # of the difference: Wilcoxon over examples, corrected for the number of rows
    bits_per_dim: Estimate | None = None  # of the IWAE of the largest K, for discrete data
    untrusted: float | None = None  # share of the examples with a Pareto k̂ above 0.7 at the largest K
    best_epoch: int | None = None  # the epoch whose parameters were evaluated
    epochs_before: int = 0  # that the parameters it started from had been trained
    latency_batch: int = 128  # examples in the batch that was timed
    verdict: str | None = None  # by the IWAE of the largest K: one of VERDICTS; None where nothing was compared


def estimate(values: np.ndarray) -> Estimate:
    """Mean of per-example values[N] and its standard error, std / √N with N − 1 in std; both NaN if any value is.

    Of a paired difference when given `bound_b - bound_a`. One example alone has no standard error: NaN.
    Raises ValueError where values are not a non-empty vector.
    """
    values = np.asarray(values, np.float64)
    if values.ndim != 1 or not values.size:
        raise ValueError(
            f"An estimate is made of one value per example, [N], but the values have shape {values.shape}."
        )
    with np.errstate(invalid="ignore"):  # infinite values have no standard error: NaN, which is shown
        se = values.std(ddof=1) / math.sqrt(values.size) if values.size > 1 else math.nan
    return Estimate(float(values.mean()), float(se))


def check_rows(rows: Sequence[CompareRow]) -> None:
    """Raise ValueError, in one sentence, where rows cannot stand in one table."""
    if not rows:
        raise ValueError("A comparison needs at least one method, got none.")
    first, names = rows[0], [row.name for row in rows]
    if len(set(names)) < len(names):
        raise ValueError(f"Methods of a comparison need different names, got {', '.join(names)}.")
    if not first.iwae:
        raise ValueError(f"'{first.name}' has no IWAE bound; give one for at least one number of samples.")
    for row in rows[1:]:
        for what in ("num_examples", "latency_batch"):
            if getattr(row, what) != getattr(first, what):
                raise ValueError(
                    f"'{row.name}' has {what} {getattr(row, what)} but '{first.name}' {getattr(first, what)}; "
                    "evaluate both in the same way."
                )
        if set(row.iwae) != set(first.iwae):
            raise ValueError(
                f"'{row.name}' has IWAE bounds of {sorted(row.iwae)} samples but '{first.name}' of "
                f"{sorted(first.iwae)}; evaluate both in the same way."
            )
