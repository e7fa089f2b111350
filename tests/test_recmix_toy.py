"""The recursion on a target in one dimension whose answers are integrals: what each criterion can and cannot do.

p = .55 N(−1, .5²) + .35 N(2, .5²) + .10 N(0, 1.5²). A first component is the best single Gaussian; the second is
trained by the library's own loss from several starts, and the mixture is judged on a grid with its best ε.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

from gpvae_jax.methods.mixture import mixture
from gpvae_jax.methods.recmix import recmix
from gpvae_jax.networks import mlp
from gpvae_jax.posteriors import DiagonalGaussian, standard_normal_log_prob, standard_normal_prior
from gpvae_jax.types import InferenceMethod, LatentModel, Params

GRID = np.linspace(-12, 12, 12_001)
STEP = GRID[1] - GRID[0]
WEIGHTS, MEANS, STDS = (0.55, 0.35, 0.10), (-1.0, 2.0, 0.0), (0.5, 0.5, 1.5)
LOG_P = np.log(sum(w * stats.norm.pdf(GRID, m, s) for w, m, s in zip(WEIGHTS, MEANS, STDS, strict=True)))
SINGLE = (0.12443, 1.48834)  # mean and σ of the best single Gaussian, whose KL the first test checks
STARTS = [(m, s) for m in (-2.0, -1.0, 1.0, 2.0, 3.0) for s in (0.3, 1.0)]
STEPS, SAMPLES = 1_500, 200


def log_target(z):
    parts = [jnp.log(w / s) - 0.5 * jnp.square((z - m) / s) for w, m, s in zip(WEIGHTS, MEANS, STDS, strict=True)]
    return jax.nn.logsumexp(jnp.stack(parts), axis=0) - 0.5 * jnp.log(2 * jnp.pi)


MODEL = LatentModel(
    init=lambda key, x: {},
    log_prior=standard_normal_prior,
    log_likelihood=lambda theta, x, z: log_target(z[..., 0]) - standard_normal_log_prob(z),
    sample=lambda theta, key, n: None,
    mean=lambda theta, z: z,
    data_shape=(1,),
    latent_dim=1,
)


def free_gaussian() -> InferenceMethod:
    """One Gaussian whatever the input: φ = {"mean", "log_std"}."""

    def init(key, x):
        return Params({}, {"mean": jnp.zeros(1), "log_std": jnp.zeros(1)})

    def posterior(params, key, x):
        phi = params.inference
        shape = (x.shape[0], 1)
        return DiagonalGaussian(*(jnp.broadcast_to(phi[name][None], shape) for name in ("mean", "log_std"))), {}

    return InferenceMethod(init, posterior, lambda *_, **__: None)


def divergence(log_q):
    """KL(q ‖ p) on the grid."""
    return np.sum(np.exp(log_q) * (log_q - LOG_P)) * STEP


class Component(NamedTuple):
    mean: float
    std: float

    @property
    def log_q(self):
        return stats.norm.logpdf(GRID, self.mean, self.std)


FIRST = Component(*SINGLE)


def best_mixture(new: Component) -> tuple[float, float]:
    """The KL of (1 − ε) q_0 + ε q' and its ε, by golden-section-like refinement of a grid over ε."""
    low, high = 0.0, 1.0
    for _ in range(6):
        epsilons = np.linspace(low, high, 23)[1:-1]
        values = [divergence(np.logaddexp(np.log1p(-e) + FIRST.log_q, np.log(e) + new.log_q)) for e in epsilons]
        i = int(np.argmin(values))
        width = epsilons[1] - epsilons[0]
        low, high = max(epsilons[i] - width, 0.0), min(epsilons[i] + width, 1.0)
    return values[i], epsilons[i]


def criterion(new: Component, objective: str, cap: float, entropy_weight: float) -> float:
    """What the new component maximises, on the grid."""
    q = np.exp(new.log_q)
    if objective == "greedy":
        return -best_mixture(new)[0]
    bound = -divergence(new.log_q)
    kl = np.sum(q * (new.log_q - FIRST.log_q)) * STEP
    if objective == "entropy":
        return bound + kl + entropy_weight * stats.norm(new.mean, new.std).entropy()
    return bound + min(kl, cap)


def train(method: InferenceMethod, phi) -> dict:
    """Adam with a decaying step, fresh draws every step, all starts at once."""
    optimizer, x = optax.adam(optax.cosine_decay_schedule(0.05, STEPS)), jnp.zeros((1, 1))

    @jax.jit
    @jax.vmap
    def run(phi):
        def step(carry, key):
            params, state = carry
            grads = jax.grad(lambda p: method.loss(p, key, x)[0])(params)
            with jax.numpy_dtype_promotion("standard"):
                updates, state = optimizer.update(grads, state)
            return (optax.apply_updates(params, updates), state), None

        params = Params({}, phi)
        keys = jax.random.split(jax.random.key(0), STEPS)
        return jax.lax.scan(step, (params, optimizer.init(params)), keys)[0][0].inference

    return run(phi)


def second_component(objective: str, cap: float = 1.0, entropy_weight: float = 0.5) -> Component:
    """The best of all starts by its own criterion."""
    method = recmix(
        MODEL,
        mlp((1,), (1,)),
        num_components=2,
        refinement="newest",
        objective=objective,
        cap=cap,
        entropy_weight=entropy_weight,
        epsilon="constant",
        num_samples=SAMPLES,
        base=free_gaussian(),
    )
    starts = np.array([[SINGLE, start] for start in STARTS], np.float32)[..., None]  # [starts, M, 2, 1]
    stacked = {"mean": jnp.asarray(starts[:, :, 0]), "log_std": jnp.log(jnp.asarray(starts[:, :, 1]))}
    phi = train(method, {"components": stacked, "epsilon": {"logit": jnp.full((len(STARTS), 1), -2.0)}})
    np.testing.assert_allclose(phi["components"]["mean"][:, 0, 0], SINGLE[0], rtol=1e-6)  # the first is held
    found = zip(phi["components"]["mean"][:, 1, 0], np.exp(phi["components"]["log_std"])[:, 1, 0], strict=True)
    found = [Component(float(mean), float(std)) for mean, std in found]
    return max(found, key=partial(criterion, objective=objective, cap=cap, entropy_weight=entropy_weight))


def test_the_best_single_gaussian():
    assert abs(divergence(FIRST.log_q) - 0.474) < 5e-4
    for mean, std in ((0.13, 1.488), (0.119, 1.488), (0.124, 1.495), (0.124, 1.481)):
        assert divergence(Component(mean, std).log_q) > divergence(FIRST.log_q)


@pytest.mark.slow
@pytest.mark.parametrize(("objective", "expected"), [("bkl", 0.221), ("greedy", 0.216)])
def test_a_bounded_or_exact_criterion_halves_the_divergence(objective, expected):
    kl, epsilon = best_mixture(second_component(objective, cap=1.0))
    assert abs(kl - expected) < 3e-3
    assert 0.4 < epsilon < 0.6


@pytest.mark.slow
@pytest.mark.parametrize("cap", [5.0, 20.0])
def test_a_high_cap_collapses_to_a_point(cap):
    new = second_component("bkl", cap=cap)
    kl, epsilon = best_mixture(new)
    assert 0.455 < kl < 0.4738
    assert new.std < 0.03
    assert epsilon < 0.05


@pytest.mark.slow
@pytest.mark.parametrize("entropy_weight", [0.25, 0.5])
def test_an_entropy_bonus_lies_between(entropy_weight):
    assert 0.31 < best_mixture(second_component("entropy", entropy_weight=entropy_weight))[0] < 0.38


@pytest.mark.slow
def test_refitting_both_end_to_end_is_far_better():
    method = mixture(
        MODEL, mlp((1,), (1,)), num_components=2, weights="constant", num_samples=SAMPLES, base=free_gaussian()
    )
    stacked = {"mean": jnp.asarray([[[-0.5], [1.0]]]), "log_std": jnp.zeros((1, 2, 1))}
    phi = train(method, {"components": stacked, "weights": {"logit": jnp.zeros((1, 2))}})
    log_alpha = jax.nn.log_softmax(phi["weights"]["logit"][0])
    parts = [
        Component(float(phi["components"]["mean"][0, m, 0]), float(np.exp(phi["components"]["log_std"][0, m, 0])))
        for m in range(2)
    ]
    log_q = np.logaddexp(*(float(log_alpha[m]) + parts[m].log_q for m in range(2)))
    assert abs(divergence(log_q) - 0.0054) < 2e-3
