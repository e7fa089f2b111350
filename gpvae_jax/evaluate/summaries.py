"""What the slow estimates of a run come to: gaps, the generalisation gap, and whether a score predicts them."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from gpvae_jax import runs
from gpvae_jax.evaluate.gaps import Gaps, gaps
from gpvae_jax.evaluate.kept import Arrays
from gpvae_jax.evaluate.run import example_values, kept_results, params_by_seed, split_examples, summary
from gpvae_jax.evaluate.scores import example_scores
from gpvae_jax.evaluate.uncertainty import calibration, spearman
from gpvae_jax.methods.svi import FAMILIES

GROUPS = 10  # of the calibration, fewer where there are few examples
PER_GROUP = 10  # at least


def gap_summaries(run: runs.Run, optima: Arrays, annealed: Arrays | None, split: str = "test") -> dict[str, Any]:
    """Means and standard errors of the gaps per family, against the larger of AIS and IWAE; needs the split's .npz."""
    values = example_values(run.folder, split)
    count = next(iter(optima.values())).shape[1]
    if values["elbo"].shape[1] < count:
        raise ValueError(
            f"The gaps of {count} examples need the bounds of as many, but {run.folder / split}.npz has those of "
            f"{values['elbo'].shape[1]}; evaluate with --estimators iwae gaps."
        )
    evidence = np.max([v[:, :count] for name, v in values.items() if name.startswith("iwae_")], axis=0)
    if annealed is not None:
        evidence = np.maximum(evidence[:, : annealed["log_evidence"].shape[1]], annealed["log_evidence"])
    count = evidence.shape[1]
    made: dict[str, Any] = {"examples": count, "evidence": summary(evidence)}
    made["evidence_from"] = sorted(n for n in values if n.startswith("iwae_")) + ([] if annealed is None else ["ais"])
    for family, best in optima.items():
        per_seed = [gaps(e, b[:count], o[:count]) for e, b, o in zip(evidence, best, values["elbo"], strict=True)]
        made[family] = {name: summary(np.stack([getattr(g, name) for g in per_seed])) for name in Gaps._fields}
    return made


def generalization_gaps(run: runs.Run) -> dict[str, dict[str, float]] | None:
    """Train less test, of log p̂ and of each family's gaps in nats, with the standard errors of two sets of examples.

    Needs the gaps of both splits, of the parameters that the run has now, in its folder; None where one is missing. A
    positive gap of the evidence is the model's overfitting, a negative one of the inference gap the encoder's: it does
    better on what it was trained on. Where the two log p̂ come from different estimators, what depends on them is left
    out: the difference would be the estimators'.
    """
    found = {}
    for split in ("train", "test"):
        stored = kept_results(run, split)
        if stored is None or "gaps" not in stored:
            return None
        found[split] = stored["gaps"]
    alike = found["train"].get("evidence_from") == found["test"].get("evidence_from")
    made = {"log evidence": _difference(found["train"]["evidence"], found["test"]["evidence"])} if alike else {}
    for family in (f for f in (*FAMILIES, "own") if f in found["train"] and f in found["test"]):
        for name in Gaps._fields if alike else ("amortization",):
            made[f"{family} {name}"] = _difference(found["train"][family][name], found["test"][family][name])
    return made


def uncertainty_summaries(run: runs.Run, optima: Arrays) -> dict[str, Any]:
    """Spearman's correlation, per seed, of each score with the amortization gap, and the mean gap by quantile of it.

    The gap is that of the diagonal Gaussian. A method without GP errors has the trivial scores alone.
    """
    elbo, best = example_values(run.folder)["elbo"], optima["diagonal"]
    count = best.shape[1]
    x = jnp.asarray(split_examples(run, "test", count, 0))
    correlations, quantiles = [], []
    for seed, params in enumerate(params_by_seed(run)):
        gap = best[seed] - elbo[seed, :count]
        scores = example_scores(run.setup.method, run.setup.model, params, x) | {"negative_elbo": -elbo[seed, :count]}
        correlations.append({name: spearman(score, gap)._asdict() for name, score in scores.items()})
        groups = min(GROUPS, count // PER_GROUP)
        if groups > 1:
            quantiles.append({name: calibration(score, gap, groups)._asdict() for name, score in scores.items()})
    return {"examples": count, "spearman_with_amortization_gap": correlations, "calibration": quantiles}


def _difference(a: dict[str, float], b: dict[str, float]) -> dict[str, float]:
    return {"mean": a["mean"] - b["mean"], "stderr": float(np.hypot(a["stderr"], b["stderr"]))}
