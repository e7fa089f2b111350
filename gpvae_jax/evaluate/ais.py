"""Annealed importance sampling of log p(x) (Neal 2001), and its reverse from exact posterior samples (BDMC).

The path is geometric, π_t ∝ p(z) p_θ(x|z)^β_t (eq. 7.3, paper: Wu et al. 2017), or from any Gaussian q instead of the
prior, π_t ∝ q(z)^(1−β_t) p_θ(x, z)^β_t; between two temperatures every chain makes one Hamiltonian Monte Carlo
transition. Step sizes are found by a pilot run and then held, so that the estimate of p(x) is exactly unbiased
(derived: steps that adapt to the chain they move would bias it), and log p̂ a lower bound on log p(x) on average.
Equations: docs/mathematics.md.
"""

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from gpvae_jax.bounds import effective_sample_size, iwae
from gpvae_jax.checks import check_above
from gpvae_jax.evaluate.annealing import Chains, Path, Watch, both_runs
from gpvae_jax.posteriors import require_standard_normal_prior
from gpvae_jax.types import LatentModel

NOBODY = Watch()


class Annealed(NamedTuple):
    """Per-example results of annealing."""

    log_evidence: Float[np.ndarray, " B"]  # log p̂ in nats, from all C chains
    standard_error: Float[np.ndarray, " B"]  # of it, by the delta method over chains; too small where ess is near 1
    ess: Float[np.ndarray, " B"]  # effective number of the C chains
    acceptance: Float[np.ndarray, " B"]  # mean rate over transitions and chains
    log_weights: Float[np.ndarray, "C B"]  # forward: mean of exp is p(x) on average; reverse: 1/p(x)


def linear_schedule(num_temperatures: int) -> Float[np.ndarray, " T1"]:
    """β_0 = 0 … β_T = 1, evenly spaced."""
    _check_count(num_temperatures)
    return np.linspace(0.0, 1.0, num_temperatures + 1)


def sigmoid_schedule(num_temperatures: int, sharpness: float = 4.0) -> Float[np.ndarray, " T1"]:
    """β_0 = 0 … β_T = 1 along a sigmoid from −sharpness to +sharpness: denser at both ends (Grosse et al. 2015)."""
    _check_count(num_temperatures)
    check_above(0, sharpness=sharpness)
    values = 1 / (1 + np.exp(-np.linspace(-sharpness, sharpness, num_temperatures + 1)))
    return (values - values[0]) / (values[-1] - values[0])


SCHEDULES = {"sigmoid": sigmoid_schedule, "linear": linear_schedule}


def _check_count(num_temperatures: int) -> None:
    if num_temperatures < 1:
        raise ValueError(f"A schedule needs at least 1 temperature, got {num_temperatures}.")


def ais(
    model: LatentModel,
    theta: PyTree,
    x: Float[Array, "B *D"],
    key: PRNGKeyArray,
    *,
    schedule: Float[np.ndarray, " T1"],
    num_chains: int = 16,
    num_leapfrog: int = 10,
    start: Any = None,
    num_pilot: int = 4,
    target_acceptance: float = 0.65,
    watch: Watch = NOBODY,
) -> Annealed:
    """log p̂(x) of each example from C = `num_chains` chains over the temperatures of `schedule`, 0 = β_0 < … < β_T = 1
    (eq. 7.4, paper).

    start: a posterior with `sample_and_log_prob` and `log_prob`, from which the path starts; None is the prior N(0, I).
    num_pilot: chains of the pilot run that finds a step per temperature and example for the target acceptance.
    watch: told the number of transitions made, of 2 T, and given the state to keep; a run that resumes from one ends
    in the same numbers. Cost: T · num_leapfrog decoder gradients for each of the num_chains + num_pilot chains and
    each example. Raises ValueError on no examples, a schedule that does not rise from 0 to 1, counts below 1 and
    another prior without a start, and ArithmeticError where log p(x, z) is not finite.
    """
    _check(schedule, len(x), num_chains=num_chains, num_leapfrog=num_leapfrog, num_pilot=num_pilot)
    key_pilot, key_start, key_run = jax.random.split(key, 3)
    if start is None:
        require_standard_normal_prior(model, "A path that starts from the prior")
    path = Path(model, theta, x, start, num_leapfrog)
    draw = partial(_from_prior, model, x) if start is None else start.sample_and_log_prob
    first, _ = draw(jax.random.fold_in(key_start, 0), num_pilot)
    z, _ = draw(jax.random.fold_in(key_start, 1), num_chains)
    return _summary(both_runs(path, first, z, schedule, target_acceptance, (key_pilot, key_run), watch), schedule)


def reverse_ais(
    model: LatentModel,
    theta: PyTree,
    x: Float[Array, "B *D"],
    z: Float[Array, "B Z"],
    key: PRNGKeyArray,
    *,
    schedule: Float[np.ndarray, " T1"],
    num_chains: int = 16,
    num_leapfrog: int = 10,
    start: Any = None,
    num_pilot: int = 4,
    target_acceptance: float = 0.65,
    watch: Watch = NOBODY,
) -> Annealed:
    """An upper bound on log p(x), on average, for x drawn from the model together with z (Grosse et al. 2015).

    z[B, Z] made x[B, *D], so it is an exact sample of p(z|x); every chain starts there and runs the path of `ais`
    backwards. Its weights estimate 1/p(x), and log_evidence is −log of their mean. Arguments, cost and errors as
    for `ais`; the pilot runs the same way back.
    """
    _check(schedule, len(x), num_chains=num_chains, num_leapfrog=num_leapfrog, num_pilot=num_pilot)
    key_pilot, key_run = jax.random.split(key)
    path = Path(model, theta, x, start, num_leapfrog)
    first, repeated = (jnp.broadcast_to(z, (chains, *z.shape)) for chains in (num_pilot, num_chains))
    backwards = np.ascontiguousarray(schedule[::-1])
    chains = both_runs(path, first, repeated, backwards, target_acceptance, (key_pilot, key_run), watch)
    found = _summary(chains, schedule)
    return found._replace(log_evidence=-found.log_evidence)


class Bracket(NamedTuple):
    """Two-sided bounds on log p(x) of simulated data; lower ≤ log p(x) ≤ upper on average."""

    x: Float[np.ndarray, "B *D"]
    lower: Annealed
    upper: Annealed


def bidirectional(model: LatentModel, theta: PyTree, key: PRNGKeyArray, num_examples: int, **settings: Any) -> Bracket:
    """BDMC (eq. 7.5, paper: Grosse et al. 2015): `ais` and `reverse_ais` on data drawn from the model itself.

    The width of the bracket tells how far `ais` can be from the truth on data like these. settings: as for `ais`,
    but no watch, which is of one run.
    """
    key_data, key_lower, key_upper = jax.random.split(key, 3)
    z, x = model.sample(theta, key_data, num_examples)
    lower = ais(model, theta, x, key_lower, **settings)
    return Bracket(np.asarray(x), lower, reverse_ais(model, theta, x, z, key_upper, **settings))


def _from_prior(
    model: LatentModel, x: Array, key: PRNGKeyArray, num_samples: int
) -> tuple[Float[Array, "C B Z"], None]:
    return jax.random.normal(key, (num_samples, x.shape[0], model.latent_dim), jnp.result_type(float)), None


def _summary(chains: Chains, schedule: np.ndarray) -> Annealed:
    log_w = chains.log_weight
    evidence = iwae(log_w)
    relative = jnp.exp(log_w - evidence[None])
    count = log_w.shape[0]
    error = jnp.std(relative, axis=0, ddof=1) / math.sqrt(count) if count > 1 else jnp.full_like(evidence, jnp.nan)
    acceptance = jnp.mean(chains.accepted, axis=0) / (len(schedule) - 1)
    found = Annealed(*jax.device_get((evidence, error, effective_sample_size(log_w), acceptance, log_w)))
    bad = np.flatnonzero(~np.isfinite(found.log_evidence))
    if bad.size:
        raise ArithmeticError(
            f"The annealed weights of {bad.size} of {len(found.ess)} examples are not finite (the first is example "
            f"{bad[0]}): the data or the trained parameters hold NaN or overflow."
        )
    return found


def _check(schedule: np.ndarray, num_examples: int, **counts: int) -> None:
    schedule = np.asarray(schedule)
    if num_examples < 1:
        raise ValueError("Annealing needs at least one example, got none.")
    rises = schedule.ndim == 1 and len(schedule) > 1 and bool(np.all(np.diff(schedule) > 0))
    if not rises or schedule[0] != 0 or schedule[-1] != 1:
        raise ValueError("A schedule of temperatures must rise from 0 to 1; make one with sigmoid_schedule(1000), say.")
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name} must be at least 1, got {count}.")
