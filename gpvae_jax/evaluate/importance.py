"""Importance-sampled bounds of a whole data set, per example, within a budget of memory."""

from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from gpvae_jax.bounds import Importance, importance
from gpvae_jax.evaluate.memory import BLOCK, tile
from gpvae_jax.types import InferenceMethod, LatentModel, Params, Posterior


def importance_bounds(
    method: InferenceMethod,
    model: LatentModel,
    params: Params,
    raw: np.ndarray,
    key: PRNGKeyArray,
    *,
    observe: Callable[[Array], Float[Array, "B *D"]] = jnp.asarray,
    num_samples: Sequence[int] = (100, 1000),
    memory: int | str | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> dict[str, np.ndarray]:
    """ELBO, IWAE-K for each K of `num_samples`, effective sample size and Pareto k̂, of every example of raw[N, *D].

    Returns float arrays [N]: `elbo`, `standard_error` (of the bound as an estimate of log p(x)), `ess` and `pareto_k`
    from the largest K, and `iwae_K`; nats per example. `observe` turns stored values into the x of the likelihood
    (the program is compiled once for each such function: give the same one again, not a new lambda). Loops on the host,
    so it is not to be jitted. memory: bytes, or a text such as "64MiB", that the decoder's activations may take, from
    which follows how many samples and examples are decoded at once; None is `memory.default_budget`. Example n's value
    is a function of `key` and n alone, whatever the memory and the examples beside it, so methods evaluated with one
    key are paired. `progress` is called with the number of examples done. Raises ValueError on numbers below 1 or a
    budget too small, and ArithmeticError where a bound is not finite.
    """
    if len(raw) == 0 or not num_samples or min(num_samples) < 1:
        raise ValueError(
            f"importance_bounds needs examples and sample sizes of at least 1, got {len(raw)} examples and "
            f"num_samples={tuple(num_samples)}."
        )
    counts = tuple(num_samples)
    examples, samples = tile(model, params.model, len(raw), max(counts), memory)
    collected = []
    for start in range(0, len(raw), examples):
        rows = np.arange(start, start + examples) % len(raw)  # the last batch is filled up, and cut below
        keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, rows)
        found = bounds_of_batch(
            params, keys, raw[rows], method=method, model=model, observe=observe, num_samples=counts, chunk=samples
        )
        collected.append(jax.device_get(found))
        progress(min(start + examples, len(raw)))
    arrays = {name: np.concatenate([c[name] for c in collected])[: len(raw)] for name in collected[0]}
    _check_finite(arrays)
    return arrays


@partial(jax.jit, static_argnames=("method", "model", "observe", "num_samples", "chunk"))
def bounds_of_batch(
    params: Params,
    keys: PRNGKeyArray,
    raw: Array,
    *,
    method: InferenceMethod,
    model: LatentModel,
    observe: Callable[[Array], Float[Array, "B *D"]],
    num_samples: tuple[int, ...],
    chunk: int,
) -> dict[str, Array]:
    """What `importance_bounds` gives, of one batch raw[B, *D] with a key each, `chunk` samples at a time."""
    largest = max(num_samples)

    def one(key: PRNGKeyArray, x: Float[Array, "*D"]) -> dict[int, Importance]:
        key_posterior, key_z = jax.random.split(key)
        q, _ = method.posterior(params, key_posterior, x[None])
        return {
            count: importance(
                partial(log_weights_from, model, params.model, q, jax.random.fold_in(key_z, count), x[None]),
                count,
                min(chunk, count),
            )
            for count in num_samples
        }

    found = jax.tree.map(lambda leaf: leaf[:, 0], jax.vmap(one)(keys, observe(raw)))
    of_largest = {name: getattr(found[largest], name) for name in Importance._fields if name != "iwae"}
    return {f"iwae_{count}": found[count].iwae for count in num_samples} | of_largest


def log_weights_from(
    model: LatentModel,
    theta: PyTree,
    posterior: Posterior,
    key: PRNGKeyArray,
    x: Float[Array, "B *D"],
    start: Int[Array, ""],
    num_samples: int,
) -> Float[Array, "S B"]:
    """Log-weights start … start + S − 1 of the endless sequence that belongs to `key`; start is a multiple of BLOCK."""
    blocks = start // BLOCK + jnp.arange(-(-num_samples // BLOCK), dtype=jnp.int32)
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, blocks)
    drawn = jax.vmap(lambda k: posterior.sample_and_log_prob(k, BLOCK))(keys)
    z, log_q = (part.reshape(-1, *part.shape[2:])[:num_samples] for part in drawn)
    return model.log_likelihood(theta, x, z) + model.log_prior(theta, z) - log_q


def _check_finite(arrays: dict[str, np.ndarray]) -> None:
    bounds = [values for name, values in arrays.items() if name == "elbo" or name.startswith("iwae_")]
    bad = np.flatnonzero(~np.all(np.isfinite(bounds), axis=0))
    if bad.size:
        raise ArithmeticError(
            f"The log-weights of {bad.size} of {len(bounds[0])} examples are not finite (the first is example "
            f"{bad[0]}): the data or the trained parameters hold NaN or overflow; look at metrics.jsonl for when."
        )
