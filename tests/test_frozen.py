"""What is frozen stays as it was trained, whatever the optimiser; the rest learns."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpvae_jax import cli, runs
from gpvae_jax.methods.newton import newton
from gpvae_jax.methods.vae import vae
from gpvae_jax.objectives import frozen
from tests.cases import X, assert_close, perturb, small_encoder, small_model

TINY = ["--latent-dim", "2", "--hidden", "16", "--num-seeds", "2"]


def largest_change(new, old) -> float:
    return max(float(np.abs(a - b).max()) for a, b in zip(jax.tree.leaves(new), jax.tree.leaves(old), strict=True))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A trained VAE's run folder."""
    folder = str(tmp_path_factory.mktemp("trained") / "vae")
    assert cli.main(["train", "--method", "vae", *TINY, "--epochs", "1", "--out", folder]) == 0
    return folder


@pytest.mark.parametrize(("part", "optimizer"), [("model", "adam"), ("base", "adamw")])  # adamw decays weights
def test_a_run_moves_only_what_is_not_frozen(base, tmp_path, part, optimizer):
    out = str(tmp_path / "newton")
    wanted = ["--method", "newton", *TINY, "--start-from", base, "--epochs", "1", "--optimizer", optimizer]
    wanted += ["--weight-decay", "0.1"] if optimizer == "adamw" else []
    assert cli.main(["train", *wanted, "--frozen", part, "--out", out]) == 0
    before, after = (runs.best_params(runs.open_run(Path(folder))) for folder in (base, out))
    assert largest_change(after.model, before.model) == 0
    assert (largest_change(after.inference["base"], before.inference) == 0) == (part == "base")
    run = runs.open_run(tmp_path / "newton")
    fresh = run.setup.method.init(jax.random.key(0), jnp.asarray(run.setup.dataset.train[:10], jnp.float32))
    trained = jax.tree.map(lambda leaf: leaf[0], after.inference["metric"])
    assert largest_change(trained, fresh.inference["metric"]) > 1e-3


def test_the_value_of_the_loss_stays():
    method, key, x = newton(small_model(), small_encoder()), jax.random.key(1), jnp.asarray(X)
    params = perturb(method.init(jax.random.key(0), x), 0)
    for part in ("model", "base"):
        assert_close(jax.jit(frozen(method, part).loss)(params, key, x), jax.jit(method.loss)(params, key, x), 0.0)


def test_nothing_to_learn_is_told():
    method = frozen(vae(small_model(), small_encoder()), "base")
    params = method.init(jax.random.key(0), jnp.asarray(X))
    with pytest.raises(ValueError, match="adds something to one"):
        method.loss(params, jax.random.key(0), jnp.asarray(X))
    with pytest.raises(ValueError, match="Unknown part to freeze 'encoder'"):
        frozen(method, "encoder")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--frozen", "encoder", "--start-from", "VAE"], "unknown part to freeze"),
        (["--frozen", "model"], "--start-from"),
        (["--frozen", "base", "--start-from", "VAE"], "adds something to one"),
        (["--method", "newton", "--frozen", "base", "--start-from", "VAE", "--epochs", "0"], "epochs is 0"),
    ],
)
def test_what_cannot_be_frozen_is_said_in_one_sentence(base, tmp_path, capsys, arguments, words):
    capsys.readouterr()
    arguments = [base if argument == "VAE" else argument for argument in arguments]
    assert cli.main(["train", *TINY, "--out", str(tmp_path / "run"), *arguments]) == 1
    message = capsys.readouterr().err
    assert words.lower() in message.lower()
    assert message.count("\n") == 1
    assert not (tmp_path / "run").exists()
