"""SAVI: its identity, ascent, per-example clipping, and gradients through the unrolled steps."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gpvae_jax.likelihoods import gaussian
from gpvae_jax.methods.savi import clip_per_example, savi
from gpvae_jax.methods.vae import vae
from gpvae_jax.objectives import analytic_elbo
from gpvae_jax.posteriors import DiagonalGaussian
from gpvae_jax.types import Params
from tests.cases import X, assert_close, compiled, perturb, small_encoder, small_model

MODEL, ENCODER, DATA, KEY = small_model(), small_encoder(), jnp.asarray(X), jax.random.key(0)


def start(method, seed: int = 0, scale: float = 0.3) -> Params:
    return perturb(method.init(jax.random.key(seed), DATA), seed, scale)


def as_vae(params: Params) -> Params:
    return Params(params.model, params.inference["base"])


def test_zero_steps_is_the_vae():
    base, method = compiled(vae(MODEL, ENCODER)), compiled(savi(MODEL, ENCODER, steps=0))
    params = start(method)
    assert_close(as_vae(method.init(KEY, DATA)), base.init(KEY, DATA), 0.0)
    assert_close(method.posterior(params, KEY, DATA)[0], base.posterior(as_vae(params), KEY, DATA)[0], 0.0)
    own, expected = (jax.jit(jax.value_and_grad(m.loss, has_aux=True)) for m in (method, base))
    result, grads = own(params, KEY, DATA)
    assert_close(result, expected(as_vae(params), KEY, DATA)[0], 1e-6)
    assert_close(as_vae(grads), expected(as_vae(params), KEY, DATA)[1], 1e-5)


@pytest.fixture(scope="module")
def trained() -> tuple[jax.Array, Params]:
    """Images of a random decoder, and a VAE trained on them for a short time."""
    teacher = perturb(MODEL.init(jax.random.key(7), DATA), 7, 1.0)
    _, x = MODEL.sample(teacher, jax.random.key(8), 256)
    method, optimizer = vae(MODEL, ENCODER), optax.adam(1e-2)

    def step(carry, key):
        params, state = carry
        grads = jax.grad(lambda p: method.loss(p, key, x)[0])(params)
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimizer.update(grads, state)
        return (optax.apply_updates(params, updates), state), None

    params = method.init(KEY, x)
    keys = jax.random.split(jax.random.key(9), 40)
    (params, _), _ = jax.jit(lambda c: jax.lax.scan(step, c, keys))((params, optimizer.init(params)))
    return x, Params(params.model, {"base": params.inference})


def bound(params: Params, x: jax.Array, **settings) -> np.ndarray:
    """The ELBO[B] of the refined posteriors, all with the same draws."""
    method = savi(MODEL, ENCODER, **settings)

    @jax.jit
    def run(params, x):
        q, info = method.posterior(params, KEY, x)
        log_likelihood, kl = analytic_elbo(MODEL, params.model, q, jax.random.key(1), x, 500)
        return log_likelihood - kl, info["elbo_trace"]

    values, trace = run(params, x)
    assert trace.shape == (settings["steps"], len(x))
    return np.asarray(values, np.float64)


def test_every_further_step_raises_the_elbo_on_average(trained):
    """Trained with none, tested with 0, 1, 2, 4 steps: paired gains, several standard errors above zero."""
    x, params = trained
    values = [bound(params, x, steps=k, step_size=0.1, inner_samples=8) for k in (0, 1, 2, 4)]
    for before, after in itertools.pairwise(values):
        gain = after - before
        assert gain.mean() > 4 * gain.std() / np.sqrt(len(x)), gain.mean()


def test_one_small_step_follows_the_gradient(trained):
    """The gain of a small unclipped step is step · |∇L|² to first order; a step that descends gives its negative."""
    x, params = trained
    with jax.enable_x64(True):
        params, x = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), jnp.float64), (params, x))
        method = compiled(savi(MODEL, ENCODER, steps=1, step_size=1e-5, inner_samples=1, clip_norm=1e6))
        q0, _ = compiled(vae(MODEL, ENCODER)).posterior(as_vae(params), KEY, x)
        q1, info = method.posterior(params, KEY, x)
        key = jax.random.split(jax.random.split(KEY)[1], 1)[0]  # the key of that step

        @jax.jit
        def total(q):
            log_likelihood, kl = analytic_elbo(MODEL, params.model, q, key, x, 1)
            return log_likelihood - kl

        gain = np.asarray(total(q1) - total(q0))
        np.testing.assert_allclose(gain, 1e-5 * np.asarray(info["gradient_norm"][0]) ** 2, rtol=1e-2)


def test_clipping_is_per_example():
    rng = np.random.default_rng(0)
    gradient = DiagonalGaussian(*jnp.asarray(rng.standard_normal((2, 5, 3)), jnp.float32))
    scaled = jax.tree.map(lambda g: g.at[0].mul(1e4).at[1].mul(0.0), gradient)
    clipped, norm = clip_per_example(scaled, 1.0)
    after = np.sqrt(sum(np.square(leaf).sum(-1) for leaf in clipped))
    np.testing.assert_allclose(after, np.minimum(norm, 1.0), rtol=1e-5)
    assert_close(
        jax.tree.map(lambda g: g[2:], clipped), jax.tree.map(lambda g: g[2:], clip_per_example(gradient, 1.0)[0]), 0.0
    )
    slope = jax.grad(lambda g: sum(jnp.sum(leaf) for leaf in clip_per_example(g, 1.0)[0]))(scaled)
    assert all(np.isfinite(leaf).all() for leaf in slope)


def test_no_limit_clips_nothing():
    gradient = {"mean": jnp.asarray([[3.0, 4.0], [0.0, 0.0]])}
    for limit in (1e20, np.inf):  # the square of the first is not a float32
        clipped, norm = clip_per_example(gradient, limit)
        np.testing.assert_array_equal(clipped["mean"], gradient["mean"])
        np.testing.assert_array_equal(norm, [5.0, 0.0])
    slope = jax.grad(lambda g: jnp.sum(clip_per_example(g, np.inf)[0]["mean"]))(gradient)
    np.testing.assert_array_equal(slope["mean"], 1.0)


@pytest.mark.parametrize("inner", [None, optax.adam(1.0), optax.chain(optax.clip_by_global_norm(0.1), optax.sgd(1.0))])
def test_an_example_s_steps_do_not_depend_on_its_neighbours(inner):
    """Also under optax's batch-wide clipping, because the inner optimiser sees one example at a time."""
    model = small_model(gaussian())
    method = savi(model, ENCODER, steps=3, inner=inner)
    params = perturb(method.init(KEY, DATA), 1, 0.3)
    run = jax.jit(lambda x: method.posterior(params, KEY, x)[0])
    before, after = run(DATA), run(DATA.at[0].mul(100.0))
    assert np.abs(before.mean[0] - after.mean[0]).max() > 1e-3
    assert_close(jax.tree.map(lambda a: a[1:], after), jax.tree.map(lambda a: a[1:], before), 1e-6)


@pytest.mark.parametrize(
    "settings",
    [
        {"clip_norm": 0.5, "learn_step_size": True},
        {"clip_norm": 1e6, "remat": True, "inner_samples": 2},
        {"inner": optax.sgd(1.0, momentum=0.5)},
    ],
)
def test_the_gradient_through_the_steps_is_exact(settings):
    """Against central differences in float64, along random directions of (θ, φ) together."""
    with jax.enable_x64(True):
        method = savi(small_model(), small_encoder(), steps=3, step_size=0.2, **settings)
        x = jnp.asarray(X, jnp.float64)
        params = perturb(method.init(KEY, x), 2, 0.3)
        loss = jax.jit(jax.value_and_grad(lambda p: method.loss(p, KEY, x)[0]))
        grads = loss(params)[1]
        for seed in range(3):
            direction = perturb(jax.tree.map(jnp.zeros_like, params), seed, 1.0)
            slope = sum(jnp.vdot(g, d) for g, d in zip(*map(jax.tree.leaves, (grads, direction)), strict=True))
            up, down = (jax.tree.map(lambda p, d, h=h: p + h * d, params, direction) for h in (1e-5, -1e-5))
            np.testing.assert_allclose(slope, (loss(up)[0] - loss(down)[0]) / 2e-5, rtol=1e-5)


def test_first_order_holds_the_steps_constant():
    """φ gets ∂L/∂λ_K as if λ_K were λ_0 plus a constant, and θ no gradient through the steps; values are the same."""
    first, exact = (savi(MODEL, ENCODER, steps=2, first_order=flag) for flag in (True, False))
    base, params = vae(MODEL, ENCODER), start(first)
    (value, _), grads = jax.jit(jax.value_and_grad(first.loss, has_aux=True))(params, KEY, DATA)
    (same, _), full = jax.jit(jax.value_and_grad(exact.loss, has_aux=True))(params, KEY, DATA)
    np.testing.assert_allclose(value, same, rtol=1e-6)
    key_posterior, key_z = jax.random.split(KEY)
    start_q, pull = jax.vjp(jax.jit(lambda p: base.posterior(p, KEY, DATA)[0]), as_vae(params))
    end_q, _ = jax.jit(exact.posterior)(params, key_posterior, DATA)
    shift = jax.tree.map(lambda end, begin: end - begin, end_q, start_q)

    def by_hand(theta, q):
        q = jax.tree.map(jnp.add, q, shift)
        log_likelihood, kl = analytic_elbo(MODEL, theta, q, key_z, DATA, 1)
        return jnp.mean(kl - log_likelihood)

    theta_grad, q_grad = jax.jit(jax.grad(by_hand, argnums=(0, 1)))(params.model, start_q)
    assert_close(grads.model, theta_grad, 1e-5)
    assert_close(grads.inference["base"], pull(q_grad)[0].inference, 1e-5)
    for one, other in ((grads, full), (grads.model, full.model)):
        assert max(np.abs(a - b).max() for a, b in zip(*map(jax.tree.leaves, (one, other)), strict=True)) > 1e-4


def test_rematerialisation_changes_nothing():
    values = []
    for remat in (False, True):
        method = savi(MODEL, ENCODER, steps=4, remat=remat)
        params = start(method)
        values.append(jax.jit(jax.value_and_grad(method.loss, has_aux=True))(params, KEY, DATA))
    assert_close(values[1], values[0], 1e-5)


def test_step_sizes_are_learned_from_the_fixed_one():
    """They start where the fixed ones are, serve any number of steps, and lowering the loss changes them."""
    learned, fixed = (
        compiled(savi(MODEL, ENCODER, steps=4, step_size=0.2, learn_step_size=flag)) for flag in (True, False)
    )
    params = start(learned, scale=0.0)
    without = Params(params.model, {"base": params.inference["base"]})
    assert_close(learned.posterior(params, KEY, DATA), fixed.posterior(without, KEY, DATA), 1e-5)
    more = compiled(savi(MODEL, ENCODER, steps=8, step_size=0.2, learn_step_size=True))
    assert more.posterior(params, KEY, DATA)[1]["elbo_trace"].shape == (8, len(X))
    slope = jax.jit(jax.grad(lambda p: learned.loss(p, KEY, DATA)[0]))(params).inference["log_step_size"]
    assert all(np.abs(leaf).min() > 0 for leaf in jax.tree.leaves(slope))


def test_it_refines_any_gaussian_method():
    nested = compiled(savi(MODEL, ENCODER, base=savi(MODEL, ENCODER, steps=1), steps=1))
    params = start(nested)
    assert params.inference["base"].keys() == {"base", "log_step_size"}
    value, _ = nested.loss(params, KEY, DATA)
    assert np.isfinite(value)
    assert nested.posterior(params, KEY, DATA)[0].mean.shape == (len(X), MODEL.latent_dim)


def test_bad_settings_are_told():
    for name, value in (("steps", -1), ("step_size", 0.0), ("clip_norm", -1.0), ("inner_samples", 0)):
        with pytest.raises(ValueError, match=f"{name} must be (above|at least)"):
            savi(MODEL, ENCODER, **{name: value})
