"""Gradients of a Gaussian likelihood from a few directions of the decoder's output."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.operations import cost_of
from gpvae_jax import cli, likelihoods, networks, runs
from gpvae_jax.evaluate.run import params_by_seed
from gpvae_jax.methods import newton
from gpvae_jax.model import latent_model
from gpvae_jax.reduced_outputs import with_reduced_outputs
from gpvae_jax.refine import with_steps
from tests.cases import perturb

SHAPE, LATENTS, HIDDEN, BATCH = (6, 5, 1), 3, 12, 4
RNG = np.random.default_rng(0)


def made(likelihood=likelihoods.gaussian, hidden=(9, HIDDEN), **settings):
    """A model, newton on it, and parameters none of which is zero."""
    model = latent_model(networks.mlp((LATENTS,), hidden, SHAPE, activation="tanh"), likelihood())
    method = newton(model, networks.mlp(SHAPE, (8,), activation="tanh"), **settings)
    x = jnp.asarray(RNG.uniform(size=(BATCH, *SHAPE)))
    return model, method, perturb(method.init(jax.random.key(0), x), 1), x


@pytest.mark.parametrize("hidden", [(9, HIDDEN), ()], ids=["two layers", "linear"])
@pytest.mark.parametrize("curvature", ["lowrank", "learned", "encoder"])
def test_all_directions_are_the_exact_steps(hidden, curvature):
    covariance = "base" if curvature == "encoder" else "full"
    with jax.enable_x64(True):
        model, method, params, x = made(hidden=hidden, curvature=curvature, covariance=covariance, steps=2, rank=2)
        every = with_reduced_outputs(model, params, HIDDEN if hidden else LATENTS)
        q, reduced = (method.posterior(p, jax.random.key(0), x)[0] for p in (params, every))
        start = q.mean - method.posterior(params, jax.random.key(0), x)[1]["base_mean"]
        assert np.abs(start).max() > 1e-3  # a step was taken
        np.testing.assert_allclose(reduced.mean, q.mean, rtol=1e-10, atol=1e-12)


def test_the_likelihood_differs_by_what_the_other_directions_say():
    with jax.enable_x64(True):
        model, _, params, x = made()
        theta, z = params.model, jnp.asarray(RNG.normal(size=(2, BATCH, LATENTS)))
        weight, bias = (np.asarray(theta["decoder"]["out"][name]) for name in ("kernel", "bias"))
        layers = theta["decoder"]["hidden"]
        h = np.asarray(z)
        for layer in (layers["layer_0"], layers["layer_1"]):
            h = np.tanh(h @ np.asarray(layer["kernel"]) + np.asarray(layer["bias"]))
        directions = np.linalg.svd(weight, full_matrices=False)[2]
        variance = float(np.exp(theta["likelihood"]["log_variance"]))
        away = np.asarray(x).reshape(BATCH, -1)[None] - h @ weight - bias
        for rank in (1, 5, HIDDEN):
            reduced = model.reduced.prepare(theta, rank)
            c = model.reduced.observe(reduced, x)
            seen = np.sum((away @ directions[:rank].T) ** 2, axis=-1)
            expected = -0.5 * (seen / variance + rank * np.log(2 * np.pi * variance))
            got = model.reduced.log_likelihood(theta, reduced, c, z)
            np.testing.assert_allclose(got, expected, rtol=1e-9)


def test_two_steps_cost_less_than_one_where_outputs_are_many():
    """784 outputs, two layers of 400, as everywhere in the experiments: 2.9 passes of the encoder and not 3."""
    shape = (28, 28, 1)
    model = latent_model(networks.mlp((20,), (400, 400), shape), likelihoods.gaussian())
    encoder = networks.mlp(shape, (400, 400))
    methods = {steps: newton(model, encoder, steps=steps) for steps in (1, 2)}
    x = jnp.zeros((1, *shape))
    params = methods[1].init(jax.random.key(0), x)

    def products(steps, params):
        traced = jax.make_jaxpr(methods[steps].posterior)(params, jax.random.key(0), x)
        return cost_of(traced.jaxpr).products

    reduced = with_reduced_outputs(model, params, 100)
    assert products(2, reduced) < products(1, params)
    assert products(1, reduced) < 0.75 * products(1, params)


def test_seeds_are_reduced_together():
    model, _, params, _ = made()
    both = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), params)
    together = with_reduced_outputs(model, both, 4)
    for seed in range(2):
        alone = with_reduced_outputs(model, jax.tree.map(lambda leaf, r=seed: leaf[r], both), 4)
        for name, leaf in alone.inference["reduced"].items():
            np.testing.assert_allclose(together.inference["reduced"][name][seed], leaf, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rank", [0, HIDDEN + 1])
def test_a_rank_the_decoder_does_not_have(rank):
    model, _, params, _ = made()
    with pytest.raises(ValueError, match=rf"output has from 1 to {HIDDEN} directions, got {rank}"):
        with_reduced_outputs(model, params, rank)


def test_models_without_such_gradients_are_told():
    bernoulli, _, params, _ = made(likelihoods.bernoulli)
    decoder = networks.mlp((LATENTS,), (HIDDEN,), SHAPE)._replace(last=None)  # as a module of one's own
    for model in (bernoulli, latent_model(decoder, likelihoods.gaussian())):
        with pytest.raises(ValueError, match="need a Gaussian likelihood and a decoder that ends in an affine layer"):
            with_reduced_outputs(model, params, 2)


def test_on_the_command_line(tmp_path, capsys):
    run = tmp_path / "newton"
    small = ["--latent-dim", "2", "--hidden", "16", "--likelihood", "gaussian", "--epochs", "2", "--num-seeds", "2"]
    assert cli.main(["train", "--method", "newton", *small, "--out", str(run)]) == 0
    evaluate = ["evaluate", str(run), "--num-samples", "2", "--max-examples", "20"]
    elbos = {}
    for rank in ([], ["--output-rank", "16"], ["--output-rank", "1"]):
        assert cli.main([*evaluate, "--steps", "2", *rank]) == 0
        folder = run / "refined" / "-".join(["steps-2", *(["output-rank", *rank[1:]] if rank else [])])
        elbos[tuple(rank)] = json.loads((folder / "results.json").read_text())["test"]["elbo"]["mean"]
    exact, every, one = elbos.values()
    assert every == pytest.approx(exact, abs=1e-3)
    assert abs(one - exact) > 1e-3
    opened = with_steps(runs.open_run(run), None, 16)
    assert opened.folder == run / "refined" / "output-rank-16"
    assert "reduced" in params_by_seed(opened)[1].inference
    capsys.readouterr()
    for options, words in (
        (["--output-rank", "17"], "from 1 to 16 directions, got 17"),
        (["--output-rank", "2", "--refine", "svi"], "--output-rank is of a run of newton's own steps"),
    ):
        assert cli.main([*evaluate, *options]) == 1
        assert words in capsys.readouterr().err


def test_other_runs_are_told(tmp_path, capsys):
    for method, settings in (("savi", []), ("newton", ["--settings", "curvature=gauss_newton"])):
        run = tmp_path / method
        small = ["--latent-dim", "2", "--hidden", "8", "--likelihood", "gaussian", "--epochs", "1"]
        assert cli.main(["train", "--method", method, *small, *settings, "--out", str(run)]) == 0
        assert cli.main(["evaluate", str(run), "--output-rank", "2"]) == 1
        assert "is no run of newton with a curvature of the encoder's" in capsys.readouterr().err
