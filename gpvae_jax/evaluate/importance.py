"""Importance-sampled bounds of a whole data set, per example."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from gpvae_jax.bounds import importance, log_weights
from gpvae_jax.types import InferenceMethod, LatentModel, Params

# decoder rows held at once, samples per chunk times batch: on a CPU what its cache holds, measured at 1,024 to be
# within 15 % of the decoder's bare matrix multiplications (8,192 rows take twice as long); elsewhere enough to fill it
ROWS = {"cpu": 1024}
ROWS_ELSEWHERE = 65_536


def importance_bounds(
    method: InferenceMethod,
    model: LatentModel,
    params: Params,
    raw: np.ndarray,
    key: PRNGKeyArray,
    *,
    observe: Callable[[Array], Float[Array, "B *D"]] = jnp.asarray,
    num_samples: Sequence[int] = (100, 1000),
    batch_size: int = 128,
    progress: Callable[[int], None] = lambda done: None,
) -> dict[str, np.ndarray]:
    """ELBO, IWAE-K for each K of `num_samples`, effective sample size and Pareto k̂, of every example of raw[N, *D].

    Returns float arrays [N]: `elbo`, `ess` and `pareto_k` from the largest K, and `iwae_K`; nats per example.
    `observe` turns stored values into the x of the likelihood. Example n's noise is a function of `key` and n's batch
    alone, so methods evaluated with one key are paired. `progress` is called with the number of examples done.
    """
    if len(raw) == 0 or not num_samples or min(num_samples) < 1:
        raise ValueError(
            f"importance_bounds needs examples and sample sizes of at least 1, got {len(raw)} examples and "
            f"num_samples={tuple(num_samples)}."
        )
    largest = max(num_samples)

    @jax.jit
    def of_batch(params: Params, key: PRNGKeyArray, raw: Array) -> dict[str, Array]:
        x = observe(raw)
        key_posterior, key_z = jax.random.split(key)
        q, _ = method.posterior(params, key_posterior, x)
        chunk = max(1, ROWS.get(jax.default_backend(), ROWS_ELSEWHERE) // len(raw))
        results = {}
        for count in num_samples:
            estimate = importance(
                lambda k, n: log_weights(model, params.model, q, k, x, n),
                jax.random.fold_in(key_z, count),
                count,
                min(chunk, count),
            )
            results[f"iwae_{count}"] = estimate.iwae
            if count == largest:
                results |= {"elbo": estimate.elbo, "ess": estimate.ess, "pareto_k": estimate.pareto_k}
        return results

    batch_size = min(batch_size, len(raw))
    collected = []
    for number, start in enumerate(range(0, len(raw), batch_size)):
        rows = np.arange(start, start + batch_size) % len(raw)  # the last batch is filled up, and cut below
        collected.append(jax.device_get(of_batch(params, jax.random.fold_in(key, number), raw[rows])))
        progress(min(start + batch_size, len(raw)))
    return {name: np.concatenate([c[name] for c in collected])[: len(raw)] for name in collected[0]}
