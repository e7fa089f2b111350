"""A method over another, from the text of a setting: a GPVAE inside SAVI, the Newton step and the mixtures."""

import jax
import numpy as np
import pytest

from gpvae_jax import build, config
from gpvae_jax.data import from_arrays
from gpvae_jax.gaussians.low_rank import LowRankGaussian
from gpvae_jax.gp.weights import weight_posterior_by_name
from gpvae_jax.methods import gpvae, newton, vae
from gpvae_jax.methods.gpvae import weight_kl
from gpvae_jax.mixtures.posterior import GaussianMixture
from gpvae_jax.posteriors import DiagonalGaussian
from gpvae_jax.types import Params
from gpvae_jax.warm_start import warm_start
from tests.cases import DATA_SHAPE, X, assert_close, compiled, perturb, small_encoder, small_model

KEY = jax.random.key(0)
DATA = from_arrays(np.random.default_rng(0).integers(0, 2, (40, *DATA_SHAPE)), name="small")
MODEL, ENCODER = small_model(), small_encoder()
OVER = ["recmix", "mixture", "savi", "newton", "svi", "iwae"]
WHOLE = ("svi", "iwae")  # whose φ is the base's
KINDS = {"recmix": GaussianMixture, "mixture": GaussianMixture, "newton": LowRankGaussian}


def made(method: str, *settings: str, **train: object) -> build.Setup:
    values = {"method": method, "settings": settings, "model": {"latent_dim": 3, "hidden": [6]}}
    setup = build.build(config.from_dict(values | {"train": {"batch_size": 8} | train}), DATA)
    return setup._replace(method=compiled(setup.method))


@pytest.mark.parametrize("method", OVER)
def test_the_loss_has_the_weights_kl_once_for_each_gpvae(method):
    steps = ["max_steps=0"] if method == "svi" else []
    setup = made(method, "base=gpvae,prior_scale=0.5,weight_posterior=low_rank,rank=2", *steps)
    params = perturb(setup.method.init(KEY, X), 1)
    value, metrics = setup.method.loss(params, KEY, X)
    phi = params.inference
    family = weight_posterior_by_name("low_rank", 2)
    if "components" in phi:
        parts = [jax.tree.map(lambda leaf, m=m: leaf[m], phi["components"]) for m in range(3)]
    else:
        parts = [phi if method in WHOLE else phi["base"]]
    wanted = sum(float(weight_kl(part, family, 0.5)) for part in parts) / len(DATA.train)
    np.testing.assert_allclose(metrics["weight_kl"], wanted, rtol=1e-5)
    halved = build.build_method(
        config.Config(method=method, settings=("base=gpvae,prior_scale=0.5,weight_posterior=low_rank,rank=2", *steps)),
        setup.model,
        build.build_encoder(setup.config.model, DATA_SHAPE),
        num_data=2 * len(DATA.train),
    )
    difference = value - compiled(halved).loss(params, KEY, X)[0]
    np.testing.assert_allclose(difference, wanted / 2, rtol=1e-3)
    assert np.isfinite(value)


@pytest.mark.parametrize("method", OVER)
def test_posterior_and_gradients_are_finite(method):
    setup = made(method, "base=gpvae", *(["max_steps=0"] if method == "svi" else []))
    params = setup.method.init(KEY, X)
    q, _ = setup.method.posterior(params, KEY, X)
    assert isinstance(q, KINDS.get(method, DiagonalGaussian))
    gradients = jax.jit(jax.grad(lambda p: setup.method.loss(p, KEY, X)[0]))(params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))


@pytest.mark.parametrize("method", OVER)
@pytest.mark.parametrize("trained_by", ["vae", "gpvae"])
def test_it_starts_from_a_vae_and_from_a_gpvae(method, trained_by):
    trained_method = vae(MODEL, ENCODER) if trained_by == "vae" else gpvae(MODEL, ENCODER, num_data=50)
    trained = perturb(trained_method.init(KEY, X), 1)
    base = gpvae(MODEL, ENCODER, num_data=50)
    case = config.Config(method=method, settings=("base=gpvae",))
    over = build.build_method(case, MODEL, ENCODER, num_data=50)
    warm = warm_start(over.init(jax.random.key(4), X), trained, jax.random.key(5)).inference
    inner = warm if method in WHOLE else warm.get("base", warm.get("components"))
    if method in ("recmix", "mixture"):
        inner = jax.tree.map(lambda leaf: leaf[0], inner)
    assert jax.tree.structure(inner) == jax.tree.structure(base.init(KEY, X).inference)
    assert_close(inner["base"] if trained_by == "vae" else inner, trained.inference, 0.0)


@pytest.mark.parametrize("method", ["recmix", "mixture"])
def test_every_component_takes_its_own_newton_step(method):
    form = {"curvature": "learned", "covariance": "diagonal"}
    setup = made(method, "base=newton," + ",".join(f"{name}={value}" for name, value in form.items()))
    params = perturb(setup.method.init(KEY, X), 1)
    q, _ = setup.method.posterior(params, KEY, X)
    alone = compiled(newton(setup.model, build.build_encoder(setup.config.model, DATA_SHAPE), **form))
    for m in range(3):
        phi = jax.tree.map(lambda leaf, m=m: leaf[m], params.inference["components"])
        wanted, _ = alone.posterior(Params(params.model, phi), KEY, X)
        assert_close(DiagonalGaussian(q.means[m], q.log_stds[m]), wanted, 1e-5)
    gradients = jax.jit(jax.grad(lambda p: setup.method.loss(p, KEY, X)[0]))(params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))


@pytest.mark.parametrize(
    ("method", "settings"),
    [("gpvae", ()), ("gpvae", ("base=savi",)), ("newton", ("base=gpvae",)), ("svi", ("base=gpvae",))],
)
def test_on_the_importance_weighted_bound_the_weights_kl_stays(method, settings):
    plain, weighted = made(method, *settings), made(method, *settings, iwae_samples=2)
    params = perturb(plain.method.init(KEY, X), 1)
    value, metrics = weighted.method.loss(params, KEY, X)
    assert metrics["weight_kl"] > 0
    np.testing.assert_allclose(value, metrics["weight_kl"] - metrics["iwae"], rtol=1e-5)
    if method != "svi":  # whose own loss would optimise every example
        np.testing.assert_allclose(metrics["weight_kl"], plain.method.loss(params, KEY, X)[1]["weight_kl"], rtol=1e-5)


@pytest.mark.parametrize(
    ("method", "settings", "train", "words"),
    [
        ("newton", (), {"frozen": "base", "epochs": 0}, "frozen is for what is trained on, but epochs is 0"),
        ("recmix", ("refinement=newest",), {"iwae_samples": 2}, "refinement=newest trains the newest component alone"),
        ("vae", (), {"doubly_reparameterized": True}, "say of how many samples with --iwae-samples"),
        ("svi", (), {"iwae_samples": 2}, "svi optimises every example's posterior and lets no gradient through"),
        ("savi", ("base=svi",), {}, "refine the finished run with --refine svi"),
        ("recmix", ("cap=2", "objective=greedy"), {"iwae_samples": 2}, "loss of recmix, which cap and objective would"),
        ("vae", ("num_samples=3",), {"iwae_samples": 2}, "which num_samples would shape"),
        ("savi", ("base=svi",), {"epochs": 0}, None),
        ("gpvae", (), {"frozen": "base"}, None),
        ("recmix", ("refinement=newest", "refinement=joint"), {"iwae_samples": 2}, None),
    ],
)
def test_a_setting_that_would_be_left_out_is_told(method, settings, train, words):
    wanted = config.from_dict({"method": method, "settings": settings, "train": train})
    if words is None:
        build.check_used(wanted)
        return
    with pytest.raises(ValueError, match=words):
        build.check_used(wanted)


@pytest.mark.parametrize(
    ("method", "settings", "words"),
    [
        ("iaf", "base=gpvae", "iaf is built over no other method"),
        ("savi", "base=gpvea", "did you mean 'gpvae'"),
        ("savi", "base=gpvae,unit=true", "Unknown setting of gpvae 'unit'"),
        ("gpvae", "base=gpvae", "models the errors of another method"),
    ],
)
def test_a_wrong_base_is_told_in_one_sentence(method, settings, words):
    with pytest.raises(ValueError, match=words):
        made(method, settings)
