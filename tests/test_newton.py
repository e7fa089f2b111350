"""Newton refinement: exact where the model is linear, between the amortized answer and the optimum elsewhere."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import PyTree

from gpvae_jax import model as models
from gpvae_jax.bounds import elbo, log_weights
from gpvae_jax.gaussians.preconditioner import Preconditioner, positive
from gpvae_jax.likelihoods import bernoulli
from gpvae_jax.methods import gpvae, newton, svi, vae
from gpvae_jax.methods.gpvae import as_gaussian
from gpvae_jax.methods.newton import CURVATURES
from gpvae_jax.networks import mlp
from gpvae_jax.objectives import analytic_elbo
from gpvae_jax.types import InferenceMethod, LatentModel, Params, Posterior
from tests.cases import X, assert_close, compiled, perturb, small_encoder, small_model
from tests.exact import latent_model, random_model

MODEL, ENCODER, DATA, KEY = small_model(), small_encoder(), jnp.asarray(X), jax.random.key(0)
BASE = compiled(vae(MODEL, ENCODER))


def params_of(method: InferenceMethod, scale: float = 0.3) -> Params:
    return perturb(method.init(KEY, DATA), 3, scale)


@jax.jit
def log_joint(params: Params, z: jax.Array) -> jax.Array:
    x = DATA.astype(z.dtype)
    return MODEL.log_likelihood(params.model, x, z[None])[0] + MODEL.log_prior(params.model, z)


@partial(jax.jit, static_argnums=(0, 5))
def bound(model: LatentModel, theta: PyTree, q: Posterior, key: jax.Array, x: jax.Array, num_samples: int) -> jax.Array:
    return elbo(log_weights(model, theta, q, key, x, num_samples))


@pytest.mark.parametrize("curvature", ["gauss_newton", "hessian"])
@pytest.mark.parametrize(("halvings", "inner_samples"), [(0, 0), (3, 0), (3, 2)])
def test_one_step_on_a_linear_gaussian_model_is_the_exact_posterior(curvature, halvings, inner_samples):
    exact = random_model()
    model, x = latent_model(exact), exact.data(0, 6)
    with jax.enable_x64(True):
        data = jnp.asarray(x)
        encoder = mlp((5,), (4,), activation="tanh")
        settings = {"curvature": curvature, "step_size": 1.0, "halvings": halvings, "largest_move": 1e6}
        settings["inner_samples"] = inner_samples
        method = compiled(newton(model, encoder, covariance="full", **settings))
        params = perturb(method.init(KEY, data), 0, 0.5)._replace(model=exact.theta(np.float64))
        q, info = method.posterior(params, KEY, data)
        mean, covariance = exact.posterior(x)
        np.testing.assert_allclose(q.mean, mean, rtol=1e-9, atol=1e-10)
        np.testing.assert_allclose(q.covariance, np.broadcast_to(covariance, (6, 3, 3)), rtol=1e-9, atol=1e-10)
        np.testing.assert_array_equal(info["step_factor"], 1)
        np.testing.assert_allclose(bound(model, params.model, q, KEY, data, 3), exact.log_evidence(x), rtol=1e-9)
        # the best diagonal one has the precisions of the diagonal
        diagonal, _ = jax.jit(newton(model, encoder, covariance="diagonal", **settings).posterior)(params, KEY, data)
        best = 1 / np.sqrt(np.diagonal(np.linalg.inv(covariance)))
        np.testing.assert_allclose(diagonal.std, np.broadcast_to(best, (6, 3)), rtol=1e-9)


@pytest.mark.parametrize("curvature", ["lowrank", "gauss_newton"])  # one that is learned, and one that is not
def test_no_step_is_the_base(curvature):
    method = compiled(newton(MODEL, ENCODER, steps=0, curvature=curvature, covariance="base"))
    params = params_of(method)
    base = Params(params.model, params.inference["base"])
    assert_close(method.posterior(params, KEY, DATA)[0], BASE.posterior(base, KEY, DATA)[0], 0.0)
    assert_close(method.loss(params, KEY, DATA)[0], BASE.loss(base, KEY, DATA)[0], 1e-6)


@pytest.mark.parametrize("curvature", CURVATURES)
def test_halving_never_goes_down_and_small_steps_go_up(curvature):
    method = compiled(newton(MODEL, ENCODER, curvature=curvature, step_size=4.0, halvings=2, steps=3))
    params = params_of(method, 0.6)
    q, info = method.posterior(params, KEY, DATA)
    assert np.all(log_joint(params, q.mean) >= log_joint(params, info["base_mean"]) - 1e-5)
    assert set(np.unique(info["step_factor"])) <= {0.0, 0.25, 0.5, 1.0}
    with jax.enable_x64(True):  # every preconditioner is positive definite
        params = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf, np.float64)), params)
        small = compiled(newton(MODEL, ENCODER, curvature=curvature, step_size=1e-4))
        q, info = small.posterior(params, KEY, jnp.asarray(np.asarray(X, np.float64)))
        assert np.all(log_joint(params, q.mean) > log_joint(params, info["base_mean"]))


def test_halving_never_goes_down_with_the_gp_prior_counted():
    base = as_gaussian(gpvae(MODEL, ENCODER, num_data=50, start_variance=0.3))
    settings = {"curvature": "gauss_newton", "step_size": 4.0, "halvings": 3, "steps": 2, "covariance": "base"}
    method = compiled(newton(MODEL, ENCODER, base=base, use_gp_prior=True, **settings))
    params = params_of(method, 0.6)
    q, info = method.posterior(params, KEY, DATA)
    precision = 1 / info["base"]["mean_variance"]
    penalty = 0.5 * jnp.sum(precision * jnp.square(q.mean - info["base_mean"]), axis=-1)
    assert np.all(log_joint(params, q.mean) - penalty >= log_joint(params, info["base_mean"]) - 1e-5)
    assert np.any(info["step_factor"] > 0)


@pytest.mark.parametrize("curvature", ["lowrank", "gauss_newton"])
def test_128_latents(curvature):
    """Posterior, bound and gradient are finite, and the covariance is what its factors or its precision say."""
    model = models.latent_model(mlp((128,), (16,), (4, 4, 1)), bernoulli())
    method = newton(model, mlp((4, 4, 1), (16,)), curvature=curvature)
    x = jnp.asarray(np.random.default_rng(0).random((3, 4, 4, 1)) < 0.5, jnp.float32)
    params = perturb(method.init(KEY, x), 1, 0.3)
    value, slope = jax.jit(jax.value_and_grad(lambda p: method.loss(p, KEY, x)[0]))(params)
    assert np.isfinite(value)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(slope))
    q, _ = jax.jit(method.posterior)(params, KEY, x)
    assert np.linalg.eigvalsh(np.asarray(q.covariance, np.float64)).min() > 0
    np.testing.assert_allclose(q.log_det, 0.5 * np.linalg.slogdet(np.asarray(q.covariance, np.float64))[1], atol=0.02)


def test_steps_on_draws_lead_to_the_best_gaussian_and_steps_at_the_mean_to_the_mode():
    """Against SVI, whose diagonal Gaussian has the greatest ELBO; the mode-centred one lies below where it is wide."""
    reference = svi(MODEL, ENCODER, max_steps=300, inner_samples=64)
    params = params_of(reference, 0.6)
    x = jnp.asarray(np.tile(X, (4, 1, 1, 1)))
    wide = params._replace(model=jax.tree.map(lambda leaf: 1.5 * leaf, params.model))
    found = {}
    shared = {"curvature": "gauss_newton", "covariance": "diagonal", "step_size": 1.0, "halvings": 3, "steps": 8}
    for name, method in (
        ("optimum", reference),
        ("draws", newton(MODEL, ENCODER, inner_samples=64, **shared)),
        ("mean", newton(MODEL, ENCODER, **shared)),
    ):
        phi = wide.inference if name == "optimum" else {"base": wide.inference}
        q, _ = jax.jit(method.posterior)(Params(wide.model, phi), KEY, x)
        found[name] = float(jnp.mean(bound(MODEL, wide.model, q, jax.random.key(7), x, 4000)))  # the same noise for all
    assert found["mean"] < found["draws"] < found["optimum"] + 0.02
    assert found["optimum"] - found["draws"] < 0.5 * (found["optimum"] - found["mean"])


FULL_FORMS = {
    "default": {},
    "on draws": {"inner_samples": 2},
    "P of a GPVAE": {"base": as_gaussian(gpvae(MODEL, ENCODER, num_data=50)), "use_gp_prior": True},
}


@pytest.mark.parametrize(
    ("curvature", "form"),
    [
        *((curvature, {"covariance": "diagonal"}) for curvature in CURVATURES),
        *(pytest.param("lowrank", form, id=f"lowrank, full, {name}") for name, form in FULL_FORMS.items()),
        *(pytest.param("gauss_newton", form, id=f"gauss_newton, full, {name}") for name, form in FULL_FORMS.items()),
    ],
)
def test_the_gradient_through_the_steps_is_exact(curvature, form):
    """Against finite differences in float64, along a random direction of all parameters."""
    with jax.enable_x64(True):
        method = newton(MODEL, ENCODER, curvature=curvature, steps=2, step_size=0.3, **form)
        x = jnp.asarray(np.asarray(X, np.float64))
        params = perturb(method.init(KEY, x), 1, 0.3)
        loss = jax.jit(jax.value_and_grad(lambda p: method.loss(p, KEY, x)[0]))
        rng = np.random.default_rng(0)
        direction = jax.tree.map(lambda leaf: jnp.asarray(rng.standard_normal(leaf.shape)), params)
        pairs = zip(*map(jax.tree.leaves, (loss(params)[1], direction)), strict=True)
        slope = sum(np.vdot(g, d) for g, d in pairs)
        step = 1e-5

        def moved(sign):
            return loss(jax.tree.map(lambda p, d: p + sign * step * d, params, direction))[0]

        np.testing.assert_allclose(slope, (moved(1) - moved(-1)) / (2 * step), rtol=1e-5)


@pytest.mark.parametrize("curvature", CURVATURES)
def test_the_gp_prior_is_a_trust_region(curvature):
    """P → ∞ gives the amortized answer, P → 0 the plain step, and between them the shift shrinks."""

    base = as_gaussian(gpvae(MODEL, ENCODER, num_data=50))
    settings = {"curvature": curvature, "step_size": 0.2, "largest_move": 1e6}
    free = newton(MODEL, ENCODER, base=base, **settings)
    params = params_of(free)

    @jax.jit
    def shift(variance: float) -> jax.Array:
        fixed = base._replace(posterior=lambda *a: _with_variance(base.posterior(*a), variance))
        q, info = newton(MODEL, ENCODER, base=fixed, use_gp_prior=True, **settings).posterior(params, KEY, DATA)
        return q.mean - info["base_mean"]

    q, info = jax.jit(free.posterior)(params, KEY, DATA)
    plain = np.asarray(q.mean - info["base_mean"])
    np.testing.assert_allclose(shift(1e12), plain, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(shift(0.0), 0, atol=1e-8)
    sizes = [np.linalg.norm(shift(v)) for v in (1e-6, 1e-3, 1e-1, 1e3)]
    assert sizes == sorted(sizes)
    assert sizes[0] < 1e-3 * sizes[-1]


def _with_variance(answer, variance):
    q, info = answer
    return q, info | {"mean_variance": jnp.full_like(info["mean_variance"], variance)}


def test_first_order_trains_what_is_learned_of_the_step():
    """The values are the same, and so is the metric's gradient: one step's ∇ log p does not depend on the metric."""
    first, exact = (newton(MODEL, ENCODER, first_order=flag) for flag in (True, False))
    params = params_of(first)
    (value, _), grads = jax.jit(jax.value_and_grad(first.loss, has_aux=True))(params, KEY, DATA)
    (same, _), full = jax.jit(jax.value_and_grad(exact.loss, has_aux=True))(params, KEY, DATA)
    np.testing.assert_allclose(value, same, rtol=1e-6)
    assert_close(grads.inference["metric"], full.inference["metric"], 1e-5)
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(grads.inference["metric"])) > 1e-4
    assert apart(grads.model, full.model) > 1e-4


@pytest.mark.parametrize("curvature", ["gauss_newton", "hessian"])
def test_first_order_passes_nothing_through_the_decoders_curvature(curvature):
    """θ gets the gradient of the bound of a posterior that is given."""
    method = newton(MODEL, ENCODER, curvature=curvature, covariance="diagonal", first_order=True, step_size=0.3)
    params = params_of(method)
    grads = jax.jit(jax.grad(lambda p: method.loss(p, KEY, DATA)[0]))(params)
    key_posterior, key_z = jax.random.split(KEY)
    q, _ = jax.jit(method.posterior)(params, key_posterior, DATA)

    def at_given(theta):
        log_likelihood, kl = analytic_elbo(MODEL, theta, q, key_z, DATA, 1)
        return jnp.mean(kl - log_likelihood)

    assert_close(grads.model, jax.jit(jax.grad(at_given))(params.model), 1e-5)
    exact = newton(MODEL, ENCODER, curvature=curvature, covariance="diagonal", step_size=0.3)
    assert apart(grads.model, jax.jit(jax.grad(lambda p: exact.loss(p, KEY, DATA)[0]))(params).model) > 1e-4


def apart(one, other):
    return max(np.abs(a - b).max() for a, b in zip(*map(jax.tree.leaves, (one, other)), strict=True))


def test_rematerialisation_changes_nothing():
    plain, remat = (newton(MODEL, ENCODER, steps=2, remat=r) for r in (False, True))
    params = params_of(plain)
    values = [jax.jit(jax.value_and_grad(lambda p, m=m: m.loss(p, KEY, DATA)[0]))(params) for m in (plain, remat)]
    assert_close(values[1], values[0], 1e-5)


@pytest.mark.parametrize("curvature", CURVATURES)
def test_an_image_without_a_feature_leaves_the_gradient_finite(curvature):
    """There the GPVAE's error has variance 0, and its precision is infinite."""
    base = as_gaussian(gpvae(MODEL, ENCODER, num_data=50))
    method = newton(MODEL, ENCODER, base=base, use_gp_prior=True, curvature=curvature)
    x = DATA.at[0].set(0)
    params = method.init(KEY, x)
    _, info = jax.jit(method.posterior)(params, KEY, x)
    assert np.asarray(info["base"]["mean_variance"])[0].max() == 0, "the test must see such an image"
    slope = jax.jit(jax.grad(lambda p: method.loss(p, KEY, x)[0]))(params)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(slope))


def test_the_absolute_hessian_has_a_derivative_where_eigenvalues_meet():
    """Against finite differences in float64; where two latents are without use, both eigenvalues are the prior's 1."""
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        basis = np.linalg.qr(rng.standard_normal((4, 4)))[0]
        direction = jnp.asarray(rng.standard_normal((1, 4, 4)))
        direction = direction + jnp.swapaxes(direction, 1, 2)
        for values in ([3.0, 3.0, -2.0, 0.2], [5.0, -4.0, -1.5, 0.5]):
            matrix = jnp.asarray(basis @ np.diag(values) @ basis.T)[None]
            _, slope = jax.jit(lambda m: jax.jvp(positive, (m,), (direction,)))(matrix)
            step = 1e-6
            moved = (positive(matrix + step * direction) - positive(matrix - step * direction)) / (2 * step)
            np.testing.assert_allclose(slope, moved, atol=1e-6)
    method = newton(MODEL, ENCODER, curvature="hessian")
    params = params_of(method)
    latents = MODEL.latent_dim
    rows = [leaf.shape for leaf in jax.tree.leaves(params.model) if leaf.ndim == 2 and len(leaf) == latents]
    assert len(rows) == 1, "the decoder's first layer"
    unused = jax.tree.map(
        lambda leaf: leaf.at[:2].set(0) if leaf.ndim == 2 and len(leaf) == latents else leaf, params.model
    )
    slope = jax.jit(jax.grad(lambda p: method.loss(p, KEY, DATA)[0]))(Params(unused, params.inference))
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(slope))


@pytest.mark.parametrize("curvature", CURVATURES)
def test_extreme_inputs_stay_finite(curvature):
    method = compiled(newton(MODEL, ENCODER, curvature=curvature, steps=2))
    params = params_of(method, 20.0)
    q, _ = method.posterior(params, KEY, 100 * DATA)
    assert np.all(np.isfinite(q.mean))
    assert np.all(np.isfinite(q.kl_to_standard_normal()))


@pytest.mark.parametrize("curvature", CURVATURES)
def test_a_step_is_as_long_as_it_may_be_and_no_longer(curvature):
    method = compiled(newton(MODEL, ENCODER, curvature=curvature, largest_move=1e-3))
    q, info = method.posterior(params_of(method), KEY, DATA)
    moved = np.sqrt(np.mean(np.square(q.mean - info["base_mean"]), axis=-1))
    np.testing.assert_allclose(moved, 1e-3, rtol=1e-2)


def test_the_low_rank_forms_agree_with_dense_algebra():
    rng = np.random.default_rng(0)
    variance, factor = np.exp(rng.standard_normal((4, 6))), rng.standard_normal((4, 6, 2))
    slope, prior = rng.standard_normal((4, 6)), np.exp(rng.standard_normal((4, 6)))
    dense = np.stack([np.diag(v) for v in variance]) + factor @ np.swapaxes(factor, 1, 2)
    form = Preconditioner(*(jnp.asarray(a, jnp.float32) for a in (variance, factor)))
    s, p = jnp.asarray(slope, jnp.float32), jnp.asarray(prior, jnp.float32)
    np.testing.assert_allclose(form.direction(s, None), np.einsum("bij,bj->bi", dense, slope), rtol=1e-4, atol=1e-4)
    inverse = np.linalg.inv(np.linalg.inv(dense) + np.stack([np.diag(v) for v in prior]))
    np.testing.assert_allclose(form.direction(s, p), np.einsum("bij,bj->bi", inverse, slope), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(form.gaussian(s, full=True).covariance, dense, rtol=1e-3, atol=1e-3)
    best = 1 / np.diagonal(np.linalg.inv(dense), axis1=1, axis2=2)
    np.testing.assert_allclose(form.gaussian(s, full=False).variance, best, rtol=1e-3)
    plain = Preconditioner(jnp.asarray(variance, jnp.float32))
    np.testing.assert_allclose(plain.gaussian(s, full=True).variance, variance, rtol=1e-5)
    np.testing.assert_allclose(plain.direction(s, p), slope / (1 / variance + prior), rtol=1e-4)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"curvature": "lernt"}, "did you mean 'learned'"),
        ({"covariance": "ful"}, "did you mean 'full'"),
        ({"steps": -1}, "steps must be at least 0, got -1"),
        ({"step_size": 0.0}, "step_size must be above 0, got 0"),
        ({"largest_move": float("inf")}, "largest_move must be finite and above 0, got inf"),
    ],
)
def test_bad_settings_are_told(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        newton(MODEL, ENCODER, **settings)


@pytest.mark.parametrize("strength", [1e-4, 1.0, 1e4])
def test_a_low_rank_term_of_any_strength_leaves_finite_gaussians_and_gradients(strength):
    """Where the factor is far larger than the diagonal, C⁻¹ as a difference is no precision any more in float32."""
    factor = strength * jnp.asarray(np.random.default_rng(0).standard_normal((4, 20, 5)), jnp.float32)
    mean = jnp.ones((4, 20), jnp.float32)

    def size(factor: jax.Array) -> jax.Array:
        form = Preconditioner(jnp.full((4, 20), 1e-3), factor)
        full, diagonal = (form.gaussian(mean, full=full) for full in (True, False))
        step = form.direction(mean, mean)
        return jnp.sum(full.kl_to_standard_normal() + diagonal.kl_to_standard_normal()) + jnp.sum(jnp.square(step))

    value, gradient = jax.jit(jax.value_and_grad(size))(factor)
    assert np.isfinite(value)
    assert np.all(np.isfinite(gradient))


def test_the_mean_hessian_of_many_draws_leads_to_the_best_gaussian_where_log_p_is_not_concave():
    """The fixed point of eq. 3.10 for log p(x|z) = cos 3z at mean 0: 1/σ² = 1 + 9 E cos 3z = 1 + 9 exp(−4.5 σ²)."""
    plain = models.latent_model(mlp((1,), (), (1,)), bernoulli())
    model = plain._replace(log_likelihood=lambda theta, x, z: jnp.cos(3 * z[..., 0]))
    x = jnp.zeros((1, 1))
    settings = {"curvature": "hessian", "covariance": "diagonal", "step_size": 1.0}
    method = newton(model, mlp((1,), (4,)), inner_samples=2000, steps=10, **settings)
    q, _ = jax.jit(method.posterior)(method.init(KEY, x), KEY, x)
    assert abs(q.mean.item()) < 1e-3
    precision = 1 / q.variance.item()
    error = 9 * np.sqrt(0.5 / 2000)  # of the mean of 2,000 cosines, at most
    assert abs(precision - 1 - 9 * np.exp(-4.5 / precision)) < 4 * error
    assert 0.7 < q.std.item() < 1.1  # with each draw made positive by itself it would be 0.39


def test_a_gp_prior_needs_a_gpvae():
    method = newton(MODEL, ENCODER, use_gp_prior=True)
    with pytest.raises(ValueError, match="needs one as base"):
        method.posterior(method.init(KEY, DATA), KEY, DATA)


@pytest.mark.parametrize("curvature", CURVATURES)
def test_a_base_that_is_no_diagonal_gaussian_is_told(curvature):
    method = newton(MODEL, ENCODER, base=newton(MODEL, ENCODER), curvature=curvature)
    with pytest.raises(ValueError, match="a DiagonalGaussian, but this one's is a LowRankGaussian"):
        jax.eval_shape(method.posterior, jax.eval_shape(method.init, KEY, DATA), KEY, DATA)
