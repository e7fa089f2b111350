"""A GPVAE's error posterior fitted to a trained base in closed form, from data: optima, regression, prior scale."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from gpvae_jax.checks import check_at_least
from gpvae_jax.gp.laplace import Laplace, find_optima, laplace
from gpvae_jax.gp.weights import ERRORS
from gpvae_jax.posteriors import DiagonalGaussian
from gpvae_jax.types import InferenceMethod, LatentModel, Params

PRIOR_SCALES = (0.1, 0.3, 1.0, 3.0, 10.0)


class ClosedForm(NamedTuple):
    """What `closed_form` fitted; the scales and evidences are of f ("mean") and h ("std")."""

    params: Params
    prior_scale: dict[str, float]  # τ of the greatest evidence
    log_evidence: dict[str, float]  # nats, summed over latents


def closed_form(
    method: InferenceMethod,
    model: LatentModel,
    params: Params,
    raw: np.ndarray,
    key: PRNGKeyArray,
    *,
    observe: Callable[[PRNGKeyArray, Array], Float[Array, "B *D"]] = lambda key, raw: jnp.asarray(raw),
    prior_scales: Sequence[float] = PRIOR_SCALES,
    batch_size: int = 500,
    max_steps: int = 300,
    progress: Callable[[float], None] = lambda done: None,
) -> ClosedForm:
    """`laplace` of a `gpvae(…, weight_posterior="full")` on the examples raw[N, *D], τ by its evidence (derived).

    params: the method's, its base and θ trained; of q(W, U) nothing is used. Every example's optimum is searched for
    from the base's posterior (`laplace.find_optima`, max_steps at most), then the regressions are solved for each τ of
    prior_scales. Examples the base was not trained on show the errors that new inputs will meet. observe: an
    `Observation`'s train, where raw holds stored values. progress is told the share done. Cost: 4 decoder gradients
    per step and example, then O(N F² Z) per τ, tenfold with white noise.
    Raises ValueError as `laplace`, and without examples.
    """
    check_at_least(1, **{"the number of examples": len(raw)})

    @jax.jit
    def optima_of(raw: Array, key: PRNGKeyArray) -> tuple[Any, Any]:
        key_observe, key_posterior, key_search = jax.random.split(key, 3)
        x = observe(key_observe, raw)
        _, info = method.posterior(params, key_posterior, x)
        base = DiagonalGaussian(info["base_mean"], jnp.log(info["base_std"]))
        found = find_optima(model, params.model, key_search, x, base, max_steps=max_steps, num_samples=4)
        return found, {name: info[name] for name in ("features", "base_mean", "base_std")}

    count, batch_size, found = len(raw), min(batch_size, len(raw)), []
    for number, start in enumerate(range(0, count, batch_size)):
        rows = np.arange(start, start + batch_size) % count  # the last batch is filled up, and cut below
        found.append(jax.device_get(optima_of(raw[rows], jax.random.fold_in(key, number))))
        progress(min(1.0, (start + batch_size) / count))
    optima, info = jax.tree.map(lambda *parts: jnp.asarray(np.concatenate(parts)[:count]), *found)
    fit = jax.jit(partial(laplace, params))
    return _best(params, {scale: fit(info, optima, prior_scale=scale) for scale in prior_scales})


def _best(params: Params, fits: dict[float, Laplace]) -> ClosedForm:
    """Of f and of h the fit with the greatest evidence, which need not share τ."""
    phi, scales, evidence = dict(params.inference), {}, {}
    for part in ERRORS:
        total = {scale: float(jnp.sum(getattr(fit, f"{part}_log_evidence"))) for scale, fit in fits.items()}
        scales[part] = max(total, key=lambda scale: total[scale])
        evidence[part] = total[scales[part]]
        chosen = fits[scales[part]].params.inference
        phi[part] = chosen[part]
        if "noise" in phi:
            phi["noise"] = phi["noise"] | {part: chosen["noise"][part]}
    return ClosedForm(Params(params.model, phi), scales, evidence)
