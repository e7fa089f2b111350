"""The component criteria against integrals on a grid: one latent, one example, any number of components.

The draws are the normal's quantiles, so that values and gradients agree to quadrature error.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from gpvae_jax.mixtures.criteria import (
    Draws,
    bounded_kl,
    current_mixture,
    entropy_regularized,
    greedy,
)
from gpvae_jax.mixtures.posterior import GaussianMixture, stick_breaking

M, SAMPLES = 3, 8_000
GRID = np.linspace(-14, 14, 4_001)
QUANTILES = stats.norm.ppf((np.arange(SAMPLES) + 0.5) / SAMPLES)
INFINITY = float("inf")


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def components():
    """Means and log σ [M, B=1, Z=1], and log α."""
    means = jnp.asarray([-0.8, 0.5, 1.6])[:, None, None]
    log_stds = jnp.asarray([-0.3, 0.1, -0.6])[:, None, None]
    return means, log_stds, stick_breaking(jnp.asarray([[0.4, -0.5]]))


def log_target(z, beta=1.0):
    """log p(x|z) + β log p(z) with a bimodal likelihood and the standard normal prior."""
    likelihood = jnp.logaddexp(-2 * jnp.square(z + 1), 0.3 - jnp.square(z - 2))
    return likelihood - beta * 0.5 * (jnp.square(z) + jnp.log(2 * jnp.pi))


def draws(means, log_stds, log_alpha, beta=1.0):
    q = GaussianMixture(means, log_stds, log_alpha)
    z = q.strata(jnp.broadcast_to(jnp.asarray(QUANTILES)[None, :, None, None], (M, SAMPLES, 1, 1)))
    return Draws(q, z, log_target(z[..., 0], beta), beta)


def log_normal(m, mean, log_std):
    return (
        -0.5 * jnp.square((GRID - mean[m, 0, 0]) / jnp.exp(log_std[m, 0, 0]))
        - log_std[m, 0, 0]
        - 0.5 * jnp.log(2 * jnp.pi)
    )


def integral(values):
    return jnp.sum(values) * (GRID[1] - GRID[0])


def on_the_grid(kind, m, against, beta, means, log_stds, log_alpha):
    """Component m's criterion as an integral, written out for m alone; (L, KL to the current mixture) for "parts"."""
    members = [j for j in range(M) if (j < m if against == "earlier" else j != m)]
    log_q, log_p = log_normal(m, means, log_stds), log_target(GRID, beta)
    q = jnp.exp(log_q)
    own = integral(q * (log_p - beta * log_q))
    if kind == "greedy":
        every = sorted([*members, m])
        weights = jnp.exp(log_alpha[0, jnp.asarray(every)])
        mixture = sum(
            w * jnp.exp(log_normal(j, means, log_stds)) for w, j in zip(weights / weights.sum(), every, strict=True)
        )
        return integral(mixture * (log_p - beta * jnp.log(mixture)))
    if not members:
        return (own, 0.0) if kind == "parts" else own
    weights = jnp.exp(log_alpha[0, jnp.asarray(members)])
    current = sum(
        w * jnp.exp(log_normal(j, means, log_stds)) for w, j in zip(weights / weights.sum(), members, strict=True)
    )
    if kind == "functional gradient":
        return integral(q * (log_p - beta * jnp.log(current)))
    if kind == "entropy":
        repelled = integral(q * (log_p - beta * jnp.log(current)))
        return repelled - beta * 0.4 * integral(q * log_q)
    return own, integral(q * (log_q - jnp.log(current)))


CRITERIA = {
    "functional gradient": partial(bounded_kl, cap=INFINITY, cap_on="example"),
    "entropy": partial(entropy_regularized, entropy_weight=0.4),
    "greedy": greedy,
}


@pytest.mark.parametrize("beta", [1.0, 0.6])
@pytest.mark.parametrize("against", ["earlier", "others"])
@pytest.mark.parametrize("kind", sorted(CRITERIA))
def test_values_and_gradients_are_the_integrals(kind, against, beta):
    """Uncapped, L(q') + KL(q'‖Q) = E_q'[log p − log Q]: the identity behind the criterion, value and gradient."""
    parameters, current = components(), current_mixture(M, against)

    def criterion(*parameters):
        return CRITERIA[kind](draws(*parameters, beta), current)[:, 0]

    values, jacobian = jax.jit(lambda *p: (criterion(*p), jax.jacrev(criterion, (0, 1, 2))(*p)))(*parameters)
    exact = partial(on_the_grid, kind, against=against, beta=beta)
    for m in range(M):
        expected = jax.jit(
            jax.value_and_grad(lambda *p, m=m: exact(m, means=p[0], log_stds=p[1], log_alpha=p[2]), (0, 1))
        )
        value, grads = expected(*parameters)
        np.testing.assert_allclose(values[m], value, atol=1e-3)
        for mine, other in zip(jacobian[:2], grads, strict=True):
            np.testing.assert_allclose(mine[m, m], other[m], atol=2e-3)
            others = [j for j in range(M) if j != m]
            assert (np.asarray(mine[m])[others] == 0).all()  # exactly: nothing of another component's
    assert (np.asarray(jacobian[2]) == 0).all()  # nor of the weights


@pytest.mark.parametrize("against", ["earlier", "others"])
def test_the_cap(against):
    """min(KL, C): each component's divergence is below, or far above, one of the caps; the gradient follows."""
    parameters, current = components(), current_mixture(M, against)

    @partial(jax.jit, static_argnums=(0, 1))
    def exactly(kind, m, means):
        value = on_the_grid(kind, m, against, 1.0, means, *parameters[1:])
        return value if kind == "parts" else (value, 0.0)

    exact = jax.jit(jax.grad(lambda means, kind, m: exactly(kind, m, means)[0]), static_argnums=(1, 2))
    parts = [tuple(map(float, exactly("parts", m, parameters[0]))) for m in range(M)]
    for cap in (0.05, 1.0, 50.0):

        def criterion(*parameters, cap=cap):
            return bounded_kl(draws(*parameters), current, cap=cap, cap_on="example")[:, 0]

        wanted = [own + min(kl, cap) for own, kl in parts]
        values, jacobian = jax.jit(lambda *p, c=criterion: (c(*p), jax.jacrev(c)(*p)))(*parameters)
        np.testing.assert_allclose(values, wanted, atol=1e-3)
        for m, (_, kl) in enumerate(parts):
            kind = "parts" if kl > cap or not current[m].any() else "functional gradient"
            np.testing.assert_allclose(jacobian[m, m], exact(parameters[0], kind, m)[m], atol=2e-3)


def test_the_two_places_of_the_cap_differ_and_agree_when_it_is_out_of_reach():
    current = current_mixture(M, "earlier")
    on = {
        (place, cap): np.asarray(bounded_kl(draws(*components()), current, cap=cap, cap_on=place))
        for place in ("example", "sample")
        for cap in (0.3, 1e6)
    }
    np.testing.assert_allclose(on["example", 1e6], on["sample", 1e6], rtol=1e-12)
    # the minimum of a mean is at least the mean of the minima
    assert (on["example", 0.3][1:] > on["sample", 0.3][1:] + 1e-3).all()
    np.testing.assert_array_equal(on["example", 0.3][0], on["sample", 0.3][0])


def test_who_is_in_the_current_mixture():
    np.testing.assert_array_equal(current_mixture(3, "earlier"), [[0, 0, 0], [1, 0, 0], [1, 1, 0]])
    np.testing.assert_array_equal(current_mixture(3, "others"), [[0, 1, 1], [1, 0, 1], [1, 1, 0]])


def test_finite_where_weights_underflow():
    means, log_stds, _ = components()
    log_alpha = stick_breaking(jnp.asarray([[200.0, 900.0]]))
    for criterion in CRITERIA.values():
        for against in ("earlier", "others"):
            current = current_mixture(M, against)
            total = jax.value_and_grad(
                lambda m, s, c=criterion, a=current: jnp.sum(c(draws(m, s, log_alpha), a)), (0, 1)
            )
            value, grads = jax.jit(total)(means, log_stds)
            assert np.isfinite(value)
            assert all(np.isfinite(g).all() for g in grads)
