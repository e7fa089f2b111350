"""A weight on the base's loss: the sum it says, a better start, and one sentence where there is no base to weigh."""

from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from gpvae_jax import cli, runs
from gpvae_jax.build import build_method
from gpvae_jax.config import Config, TrainConfig
from gpvae_jax.evaluate.importance import importance_bounds
from gpvae_jax.evaluate.run import params_by_seed, split_examples
from gpvae_jax.methods.newton import newton
from gpvae_jax.methods.savi import savi
from gpvae_jax.methods.vae import vae
from gpvae_jax.objectives import with_base_loss
from gpvae_jax.refine import with_steps
from tests.cases import X, assert_close, perturb, small_encoder, small_model

TINY = ["--latent-dim", "2", "--hidden", "16"]


@pytest.mark.parametrize("factory", [newton, savi])
def test_value_and_gradient_are_the_weighted_sums(factory):
    model, encoder, weight, x = small_model(), small_encoder(), 0.3, jnp.asarray(X)
    method, base = factory(model, encoder), vae(model, encoder)
    params = perturb(method.init(jax.random.key(0), x), 0)
    key = jax.random.key(1)
    key_own, key_base = jax.random.split(key)

    def by_hand(params):
        after, metrics = method.loss(params, key_own, x, beta=0.7)
        before, of_base = base.loss(params.of("base"), key_base, x, beta=0.7)
        return 0.7 * after + 0.3 * before, metrics | {"base_elbo": of_base["elbo"]}

    def built(params):
        return with_base_loss(method, base, weight).loss(params, key, x, beta=0.7)

    for got, wanted in zip(
        *(jax.jit(jax.value_and_grad(f, has_aux=True))(params) for f in (built, by_hand)), strict=True
    ):
        assert_close(got, wanted, 1e-5)


def test_a_weight_out_of_range_is_refused():
    method, base = newton(small_model(), small_encoder()), vae(small_model(), small_encoder())
    for weight in (-0.1, 1.0, float("nan")):
        with pytest.raises(ValueError, match="at least 0 and below 1"):
            with_base_loss(method, base, weight)


def test_the_step_starts_from_a_better_posterior(tmp_path: Path):
    wanted = ["--method", "newton", *TINY, "--epochs", "8", "--learning-rate", "0.003", "--num-seeds", "2"]
    starts, metrics = {}, {}
    for weight in ("0", "0.5"):
        folder = tmp_path / weight
        assert cli.main(["train", *wanted, "--base-weight", weight, "--out", str(folder)]) == 0
        run = with_steps(runs.open_run(folder), 0)
        x = split_examples(run, "validation", 100, 0)
        bounds = [
            importance_bounds(run.setup.method, run.setup.model, params, x, jax.random.key(0), num_samples=(50,))[
                "elbo"
            ]
            for params in params_by_seed(run)
        ]
        starts[weight] = jnp.stack(bounds)
        metrics[weight] = (folder / "metrics.jsonl").read_text()
    gain = starts["0.5"] - starts["0"]
    assert jnp.mean(gain) > 3 * jnp.std(jnp.mean(gain, axis=0)) / gain.shape[1] ** 0.5
    assert "base_elbo" in metrics["0.5"]
    assert "base_elbo" not in metrics["0"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--method", "newton", "--base-weight", "1"], "below 1, got 1"),
        (["--method", "newton", "--base-weight", "-0.5"], "below 1, got -0.5"),
        (["--base-weight", "0.3"], "built over one base"),
        (["--method", "recmix", "--base-weight", "0.3"], "built over one base"),
        (["--method", "newton", "--base-weight", "0.3", "--frozen", "base", "--start-from", "VAE"], "frozen=base"),
        (["--method", "newton", "--base-weight", "0.3", "--epochs", "0", "--start-from", "VAE"], "epochs is 0"),
    ],
)
def test_what_cannot_be_weighed_is_said_in_one_sentence(tmp_path, capsys, arguments, words):
    if "VAE" in arguments:
        arguments = [str(tmp_path / "vae") if argument == "VAE" else argument for argument in arguments]
        assert cli.main(["train", *TINY, "--epochs", "1", "--out", str(tmp_path / "vae")]) == 0
    capsys.readouterr()
    assert cli.main(["train", *TINY, "--out", str(tmp_path / "run"), *arguments]) == 1
    message = capsys.readouterr().err
    assert words in message
    assert message.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("method", "settings"),
    [("newton", ("base=gpvae",)), ("newton", ()), ("gpvae", ()), ("savi", ()), ("iterative", ()), ("vlae", ())],
)
@pytest.mark.parametrize("samples", [None, 2])
def test_every_base_brings_its_own_loss(method, settings, samples):
    def loss(weight):
        config = Config(method, settings, train=TrainConfig(base_weight=weight, iwae_samples=samples))
        built = build_method(config, small_model(), small_encoder(), num_data=10)
        return built, jax.jit(built.loss)

    (built, weighed), (_, own) = loss(0.3), loss(0.0)
    params = built.init(jax.random.key(0), jnp.asarray(X))
    key = jax.random.key(1)
    value, metrics = weighed(params, key, jnp.asarray(X))
    after, of_own = own(params, jax.random.split(key)[0], jnp.asarray(X))
    assert set(metrics) == {*of_own, "base_elbo"}
    of_base = (value - 0.7 * after) / 0.3  # the VAE's loss is its negative bound; a GPVAE's has the weights' KL as well
    if settings:
        assert of_base > -metrics["base_elbo"]
    else:
        assert_close(of_base, -metrics["base_elbo"], 1e-4)
