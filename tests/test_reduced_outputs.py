"""Gradients of a Gaussian likelihood from a few directions of the decoder's output."""

import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.operations import cost_of
from gpvae_jax import cli, likelihoods, networks, runs
from gpvae_jax.evaluate.run import kept_results, params_by_seed
from gpvae_jax.files import read_json
from gpvae_jax.methods import newton
from gpvae_jax.model import latent_model
from gpvae_jax.reduced_outputs import with_reduced_outputs
from gpvae_jax.refine import refined, with_steps
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
        variance = float(np.exp(theta["likelihood"]["log_variance"]))
        away = np.asarray(x).reshape(BATCH, -1)[None] - features(theta, z) @ weight - bias
        every = model.reduced.prepare(theta)
        basis = np.asarray(every["basis"])
        np.testing.assert_allclose(basis.T @ basis, np.eye(HIDDEN), atol=1e-12)
        for rank in (1, 5, HIDDEN):
            reduced = {name: every[name][..., :rank] for name in ("basis", "weights", "offset")}
            c = model.reduced.observe(reduced, x)
            seen = np.sum((away @ basis[:, :rank]) ** 2, axis=-1)
            expected = -0.5 * (seen / variance + rank * np.log(2 * np.pi * variance))
            got = model.reduced.log_likelihood(theta, reduced, c, z)
            np.testing.assert_allclose(got, expected, rtol=1e-9)


def features(theta, z):
    h = np.asarray(z)
    for layer in theta["decoder"]["hidden"].values():
        h = np.tanh(h @ np.asarray(layer["kernel"]) + np.asarray(layer["bias"]))
    return h


def test_no_other_directions_leave_less_of_the_gradient_out():
    """Of a residual that is white noise, by its Jacobians at other draws of the prior."""
    with jax.enable_x64(True):
        model, _, params, _ = made()
        decoder = networks.mlp((LATENTS,), (9, HIDDEN), SHAPE, activation="tanh")
        z = jax.random.normal(jax.random.key(9), (3000, LATENTS))
        jacobians = jax.vmap(jax.jacfwd(lambda z: decoder.apply(params.model["decoder"], z[None]).ravel()))(z)
        moments = np.asarray(jnp.einsum("ndi,nei->de", jacobians, jacobians)) / len(z)
        weight = np.asarray(params.model["decoder"]["out"]["kernel"])
        by_weight = np.linalg.svd(weight, full_matrices=False)[2].T
        best = np.linalg.eigvalsh(moments)[::-1]
        basis = np.asarray(model.reduced.prepare(params.model)["basis"])
        for rank in (1, 2, 4):
            left_out, of_weight = (
                np.trace(moments) - np.trace(v[:, :rank].T @ moments @ v[:, :rank]) for v in (basis, by_weight)
            )
            assert left_out < 1.03 * best[rank:].sum()  # C is an average over 4,096 draws
            assert left_out < 0.9 * of_weight


def test_how_the_network_is_written_down_changes_nothing():
    with jax.enable_x64(True):
        model = latent_model(networks.mlp((LATENTS,), (9, HIDDEN), SHAPE), likelihoods.gaussian())  # ReLU
        theta = perturb(model.init(jax.random.key(0), jnp.zeros((2, *SHAPE))), 1)
        factor = jnp.exp(2 * jax.random.normal(jax.random.key(1), (HIDDEN,)))
        decoder = theta["decoder"]
        last = decoder["hidden"]["layer_1"]
        rescaled = {"layer_1": {"kernel": last["kernel"] * factor[None], "bias": last["bias"] * factor}}
        out = decoder["out"] | {"kernel": decoder["out"]["kernel"] / factor[:, None]}
        other = theta | {"decoder": decoder | {"hidden": decoder["hidden"] | rescaled, "out": out}}
        first, second = (np.asarray(model.reduced.prepare(t)["basis"])[:, :4] for t in (theta, other))
        assert np.linalg.svd(first.T @ second, compute_uv=False).min() > 1 - 1e-8  # the same space


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


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_all_hidden_directions_are_the_exact_steps(activation):
    with jax.enable_x64(True):
        model = latent_model(
            networks.mlp((LATENTS,), (9, 7, HIDDEN), SHAPE, activation=activation), likelihoods.gaussian()
        )
        method = newton(model, networks.mlp(SHAPE, (8,)), steps=2, rank=2)
        x = jnp.asarray(RNG.uniform(size=(BATCH, *SHAPE)))
        params = perturb(method.init(jax.random.key(0), x), 1)
        of_unit = params.model["decoder"]["hidden"]["layer_0"]["bias"]
        params.model["decoder"]["hidden"]["layer_0"]["bias"] = of_unit.at[0].set(-99.0)  # with ReLU never on
        few = [with_reduced_outputs(model, params, HIDDEN, rank) for rank in (7, 3)]
        means = [method.posterior(p, jax.random.key(0), x)[0].mean for p in (params, *few)]
        np.testing.assert_allclose(means[1], means[0], rtol=1e-8, atol=1e-10)
        assert np.abs(means[2] - means[0]).max() > 1e-4


def test_no_other_hidden_directions_leave_less_of_the_output_out():
    """Of h W with h's covariance and the later layers' Jacobians, both from other draws of the prior."""
    rank = 4
    with jax.enable_x64(True):
        model, _, params, _ = made()
        decoder, z = jax.tree.map(np.asarray, params.model["decoder"]), RNG.normal(size=(20_000, LATENTS))
        first, second = (decoder["hidden"][f"layer_{i}"] for i in range(2))
        weight, out = second["kernel"], decoder["out"]["kernel"]
        h = np.tanh(z @ first["kernel"] + first["bias"])
        slope = 1 - np.tanh(h @ second["kernel"] + second["bias"]) ** 2
        felt = np.einsum("ni,nj,id,jd->ij", slope, slope, out, out) / len(z)
        reduced = with_reduced_outputs(model, params, HIDDEN, rank).inference["reduced"]["hidden"][0]
        found = np.asarray(reduced["into"] @ reduced["out"].T)
        np.testing.assert_allclose(reduced["bias"] - reduced["center"] @ reduced["out"].T,
                                   second["bias"] + h.mean(axis=0) @ (weight - found), atol=0.03)  # fmt: skip

        def left_out(other):
            away = weight - other
            return np.trace(np.cov(h.T) @ away @ felt @ away.T)

        left, size, right = np.linalg.svd(weight)
        by_weight = (left[:, :rank] * size[:rank]) @ right[:rank]
        assert left_out(found) < 0.6 * left_out(by_weight)
        values, vectors = np.linalg.eigh(felt)
        root = vectors * np.sqrt(values)
        best = np.linalg.svd(np.linalg.cholesky(np.cov(h.T)).T @ weight @ root, compute_uv=False)
        assert left_out(found) == pytest.approx(np.sum(best[rank:] ** 2), rel=0.03)


def test_four_steps_from_a_few_directions_of_every_layer_cost_less_than_two_exact_ones():
    """784 outputs, two layers of 400: 3.3 passes of the encoder and not 5."""
    shape = (28, 28, 1)
    model = latent_model(networks.mlp((20,), (400, 400), shape), likelihoods.gaussian())
    methods = {steps: newton(model, networks.mlp(shape, (400, 400)), steps=steps) for steps in (2, 4)}
    x = jnp.zeros((1, *shape))
    params = methods[2].init(jax.random.key(0), x)

    def products(steps, params):
        traced = jax.make_jaxpr(methods[steps].posterior)(params, jax.random.key(0), x)
        return cost_of(traced.jaxpr).products

    few = with_reduced_outputs(model, params, 100, 100)
    assert products(4, few) < 0.7 * products(2, params)
    assert products(4, few) < 0.75 * products(4, with_reduced_outputs(model, params, 100))


def test_hidden_directions_the_decoder_does_not_have():
    model, _, params, _ = made()
    for rank in (0, 10):
        with pytest.raises(ValueError, match=rf"Hidden layer 2 has from 1 to 9 directions, got {rank}"):
            with_reduced_outputs(model, params, 4, rank)
    for hidden in ((HIDDEN,), ()):
        model, _, params, _ = made(hidden=hidden)
        with pytest.raises(ValueError, match="a decoder with two hidden layers or more"):
            with_reduced_outputs(model, params, 2, 2)


def test_hidden_layers_that_do_not_make_the_features():
    decoder = networks.mlp((LATENTS,), (9, HIDDEN), SHAPE)
    hidden = decoder.last.hidden._replace(activation=jnp.tanh)  # and not ReLU
    model = latent_model(decoder._replace(last=decoder.last._replace(hidden=hidden)), likelihoods.gaussian())
    x = jnp.asarray(RNG.uniform(size=(BATCH, *SHAPE)), jnp.float32)
    params = perturb(newton(model, networks.mlp(SHAPE, (8,))).init(jax.random.key(0), x), 1)
    with_reduced_outputs(model, params, 4)
    with pytest.raises(ValueError, match="and its features those of its hidden layers"):
        with_reduced_outputs(model, params, 4, 4)


def test_parameters_of_several_seeds_are_told():
    model, _, params, _ = made()
    both = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), params)
    with pytest.raises(ValueError, match=r"those of one seed's parameters, but these have the weights \(2, 12, 30\)"):
        with_reduced_outputs(model, both, 4)


def test_parameters_of_another_method_are_told():
    model, _, params, _ = made()
    with pytest.raises(ValueError, match="these are not newton's parameters"):
        with_reduced_outputs(model, params._replace(inference=params.inference["base"]), 4)


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


def student_t(params, output, x):
    squared = jnp.sum(jnp.square(x - output)) * jnp.exp(-params["log_variance"])
    return -0.5 * (3 + x.size) * jnp.log1p(squared / 3)


def squashed(decoder):
    return decoder._replace(apply=lambda params, z: jax.nn.sigmoid(decoder.apply(params, z)))


@pytest.mark.parametrize("wrong", ["likelihood", "decoder"])
def test_parts_that_say_what_they_are_not(wrong):
    """A likelihood of ‖x − o‖² that is not linear in it, and a decoder whose last layer is not its last."""
    decoder, likelihood = networks.mlp((LATENTS,), (HIDDEN,), SHAPE), likelihoods.gaussian()
    if wrong == "likelihood":
        likelihood = likelihood._replace(log_prob=student_t)
    else:
        decoder = squashed(decoder)
    model = latent_model(decoder, likelihood)
    x = jnp.asarray(RNG.uniform(size=(BATCH, *SHAPE)), jnp.float32)
    params = newton(model, networks.mlp(SHAPE, (8,))).init(jax.random.key(0), x)
    with pytest.raises(ValueError, match=r"has to be linear in .* and a Network's apply has to be its last layer's"):
        with_reduced_outputs(model, params, 4)


def test_on_the_command_line(tmp_path, capsys):
    run = tmp_path / "newton"
    small = [
        "--latent-dim",
        "2",
        "--hidden",
        "16",
        "16",
        "--likelihood",
        "gaussian",
        "--epochs",
        "2",
        "--num-seeds",
        "2",
    ]
    assert cli.main(["train", "--method", "newton", *small, "--out", str(run)]) == 0
    evaluate = ["evaluate", str(run), "--num-samples", "2", "--max-examples", "20"]
    elbos = {}
    every_layer = ["--output-rank", "16", "--hidden-rank", "1"]
    for rank in ([], ["--output-rank", "16"], ["--output-rank", "1"], every_layer):
        assert cli.main([*evaluate, "--steps", "2", *rank]) == 0
        folder = run / "refined" / "-".join(["steps-2", *(word.removeprefix("--") for word in rank)])
        elbos[tuple(rank)] = json.loads((folder / "results.json").read_text())["test"]["elbo"]["mean"]
    exact, every, one, one_hidden = elbos.values()
    assert abs(one_hidden - exact) > 1e-3
    assert every == pytest.approx(exact, abs=1e-3)
    assert abs(one - exact) > 1e-3
    opened = with_steps(runs.open_run(run), None, 16)
    assert opened.folder == run / "refined" / "output-rank-16"
    assert "reduced" in params_by_seed(opened)[1].inference
    kept = [kept_results(with_steps(runs.open_run(run), 2, rank), "test") for rank in (16, 2)]
    assert [found is not None for found in kept] == [True, False]
    counts = [read_json(folder / "results.json")["num_params"] for folder in (run / "refined").iterdir()]
    assert all(count == counts[0] for count in counts)  # what was trained, and nothing made of it
    capsys.readouterr()
    for options, words in (
        (["--output-rank", "17"], "from 1 to 16 directions, got 17"),
        (["--output-rank", "2", "--hidden-rank", "17"], "Hidden layer 2 has from 1 to 16 directions, got 17"),
        (["--hidden-rank", "2"], "Hidden directions go with those of the output"),
        (["--hidden-rank", "2", "--refine", "svi"], "--hidden-rank is of a run of newton's own steps"),
        (["--output-rank", "2", "--steps", "0"], "No step takes no gradient"),
        (["--output-rank", "2", "--refine", "svi"], "--output-rank is of a run of newton's own steps"),
    ):
        there = set(os.listdir(run / "refined"))
        assert cli.main([*evaluate, *options]) == 1
        assert words in capsys.readouterr().err
        assert set(os.listdir(run / "refined")) == there
    twice = with_steps(with_steps(runs.open_run(run), 2), None, 16)
    assert "reduced" in params_by_seed(twice)[0].inference
    again = refined(with_steps(runs.open_run(run), 2, 16), "svi", 1)
    assert "reduced" in params_by_seed(again)[0].inference
    with pytest.raises(ValueError, match="got neither"):
        with_steps(runs.open_run(run))


def test_other_runs_are_told(tmp_path, capsys):
    for method, settings in (("vae", []), ("savi", []), ("newton", ["--settings", "curvature=gauss_newton"])):
        run = tmp_path / method
        small = ["--latent-dim", "2", "--hidden", "8", "--likelihood", "gaussian", "--epochs", "1"]
        assert cli.main(["train", "--method", method, *small, *settings, "--out", str(run)]) == 0
        assert cli.main(["evaluate", str(run), "--output-rank", "2"]) == 1
        assert "is no run of newton with a curvature of the encoder's" in capsys.readouterr().err
        assert not (run / "refined").exists()
