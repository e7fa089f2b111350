"""The closed-form error posterior from data, and the choice of examples it and other fits learn from."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpvae_jax import build, cli, config, runs
from gpvae_jax.data import load
from gpvae_jax.evaluate.importance import importance_bounds
from gpvae_jax.gp.closed_form import closed_form
from gpvae_jax.methods.gpvae import gpvae
from tests.exact import latent_model
from tests.test_gp_laplace import Z, float32, identity_features, orthogonal_model, wrong_encoder

EXACT = orthogonal_model()
MODEL, FEATURES = latent_model(EXACT), identity_features()
X, NEW = float32(EXACT.data(6, 400), EXACT.data(7, 400))
TINY = ["--latent-dim", "2", "--hidden", "16", "--num-seeds", "2"]


def gpvae_with_wrong_base(**settings):
    """A GPVAE with linear features over an encoder that is off by a linear function of x, and its parameters."""
    base = wrong_encoder(EXACT, 0.3 * np.random.default_rng(5).normal(size=(Z, 5)), 0.2)
    settings = {"feature_network": FEATURES, "weight_posterior": "full", "num_data": len(X)} | settings
    method = gpvae(MODEL, FEATURES, base=base, **settings)
    return method, method.init(jax.random.key(0), X)


@pytest.mark.parametrize("white_noise", [False, True])
def test_it_finds_a_planted_error_and_improves_new_examples(white_noise):
    """Linear-Gaussian model, exact posteriors known."""
    method, params = gpvae_with_wrong_base(white_noise=white_noise)
    told: list[float] = []
    fit = closed_form(method, MODEL, params, np.asarray(X), jax.random.key(1), batch_size=150, progress=told.append)
    assert told[-1] == 1.0
    assert told == sorted(told)
    assert set(fit.prior_scale) == set(fit.log_evidence) == {"mean", "std"}

    def elbo(params):
        return importance_bounds(method, MODEL, params, np.asarray(NEW), jax.random.key(2), num_samples=(200,))["elbo"]

    gain = elbo(fit.params) - elbo(params)
    assert gain.mean() > 5 * gain.std(ddof=1) / np.sqrt(len(gain))
    _, info = method.posterior(fit.params, jax.random.key(3), NEW)
    truth = EXACT.posterior(np.asarray(NEW, np.float64))[0]
    before = np.square(truth - info["base_mean"]).mean()
    after = np.square(truth - info["base_mean"] - info["mean_error"]).mean()
    assert after < 0.02 * before


def test_the_prior_scale_with_the_most_evidence_is_taken():
    method, params = gpvae_with_wrong_base()
    fits = [
        closed_form(method, MODEL, params, np.asarray(X), jax.random.key(1), prior_scales=scales, max_steps=50)
        for scales in ((0.01,), (1.0,), (0.01, 1.0))
    ]
    assert fits[2].log_evidence["mean"] == pytest.approx(max(f.log_evidence["mean"] for f in fits[:2]))
    assert fits[2].prior_scale["mean"] == 1.0


def setup_with(**train):
    values = {"method": "gpvae", "model": {"latent_dim": 2, "hidden": [16]}, "train": {"epochs": 1, **train}}
    dataset = load("digits")
    return build.build(config.from_dict(values), dataset), dataset


def test_held_out_examples_are_the_validation_set():
    setup, dataset = setup_with(examples="held_out")
    count = 4 * len(dataset.validation) // 5
    np.testing.assert_array_equal(setup.data.train, dataset.validation[:count])
    plain, _ = setup_with()
    np.testing.assert_array_equal(setup.data.validation, plain.data.validation[count:])  # the same draws of pixels
    np.testing.assert_array_equal(setup.dataset.test, plain.dataset.test)


def test_a_small_training_set_is_the_first_examples():
    values = {"method": "gpvae", "data": {"train_examples": 200}, "train": {"epochs": 1}}
    dataset = load("digits")
    setup = build.build(config.from_dict(values), dataset)
    np.testing.assert_array_equal(setup.data.train, dataset.train[:200])
    values["data"]["train_examples"] = 100_000
    with pytest.raises(ValueError, match=f"from 1 to the {len(dataset.train)} there are"):
        build.build(config.from_dict(values), dataset)


def test_a_step_on_the_model_ignores_the_data_it_is_given():
    values = {"method": "vae", "model": {"latent_dim": 2, "hidden": [16]}}
    values["train"] = {"epochs": 1, "examples": "model", "start_from": "anything"}
    setup = build.build(config.from_dict(values), load("digits"))
    state = setup.trainer.init(jax.random.key(0), setup.data)
    raw = setup.data.train[:128]
    first, metrics = jax.jit(setup.trainer.step)(state, raw)
    second, _ = jax.jit(setup.trainer.step)(state, jnp.zeros_like(raw))
    jax.tree.map(np.testing.assert_array_equal, first.params, second.params)
    assert np.isfinite(metrics["elbo"])


@pytest.mark.parametrize("examples", ["held_out", pytest.param("model", marks=pytest.mark.slow)])
def test_a_run_in_closed_form(tmp_path, capsys, examples):
    base, out = str(tmp_path / "vae"), str(tmp_path / "gpvae")
    assert cli.main(["train", "--method", "vae", *TINY, "--epochs", "1", "--out", base]) == 0
    fit = ["train", "--method", "gpvae", "--settings", "weight_posterior=full", "white_noise=true", *TINY]
    fit += ["--start-from", base, "--epochs", "0", "--examples", examples, "--closed-form", "40", "--out", out]
    assert cli.main(fit) == 0
    assert cli.main(["evaluate", out, "--num-samples", "5", "--max-examples", "20"]) == 0
    assert json.loads((tmp_path / "gpvae" / "results.json").read_text())["num_seeds"] == 2
    params = runs.best_params(runs.open_run(tmp_path / "gpvae"))
    weights = np.asarray(params.inference["mean"]["mean"])
    assert np.abs(weights).max() > 0
    assert not np.array_equal(weights[0], weights[1])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--examples", "other"], "unknown choice of examples"),
        (["--examples", "model"], "--start-from"),
        (["--closed-form", "10"], "epochs 0"),
        (["--method", "gpvae", "--start-from", "x", "--epochs", "0", "--closed-form", "10"], "weight_posterior=full"),
    ],
)
def test_what_cannot_be_fitted_is_said_in_one_sentence(tmp_path, capsys, arguments, words):
    assert cli.main(["train", *TINY, "--out", str(tmp_path / "run"), *arguments]) == 1
    message = capsys.readouterr().err
    assert words.lower() in message.lower()
    assert message.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_no_example_is_too_few(tmp_path, capsys):
    wanted = ["--method", "gpvae", "--settings", "weight_posterior=full", "--start-from", "x", "--epochs", "0"]
    assert cli.main(["train", *TINY, "--out", str(tmp_path / "r"), *wanted, "--closed-form", "0"]) == 1
    assert "at least 1" in capsys.readouterr().err
