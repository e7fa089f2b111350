"""Inference as a program of its own: the same answers, any batch, no library."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpvae_jax import cli
from gpvae_jax.deploy import PLATFORMS, export_inference, load_inference
from gpvae_jax.likelihoods import bernoulli
from gpvae_jax.methods import vae
from gpvae_jax.model import latent_model
from gpvae_jax.networks import conv_decoder, conv_encoder
from tests.cases import CASES, X

ALONE = """
import sys, jax, numpy as np
from jax import export
program = export.deserialize(bytearray(open(sys.argv[1], "rb").read()))
out = program.call(np.uint32(0), np.zeros((3, 8, 8, 1), np.float32))
assert "gpvae_jax" not in sys.modules and "flax" not in sys.modules
print(out["z"].shape, program.platforms)
"""


@pytest.mark.parametrize("name", ["vae", "gpvae", "recmix", "iaf", "newton", "vlae"])
def test_the_program_is_the_jitted_posterior(name, tmp_path):
    case = CASES[name]()
    params = case.method.init(jax.random.key(0), jnp.asarray(X))
    path = tmp_path / "inference.jaxexport"
    path.write_bytes(export_inference(case.method, case.model, params, num_samples=2))
    infer = load_inference(path)

    @jax.jit
    def expected(params, x):
        key_posterior, key_z = jax.random.split(jax.random.key(7))
        q, _ = case.method.posterior(params, key_posterior, x)
        return q.sample_and_log_prob(key_z, 2)

    for x in (X, X[:1], np.concatenate([X, X])):
        out, (z, log_q) = infer(7, x), expected(params, x)
        np.testing.assert_allclose(out["z"], z, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(out["log_q"], log_q, rtol=1e-4, atol=1e-4)
    assert set(out) == {"z", "log_q"} | ({"mean", "variance"} if name != "iaf" else set())


def test_a_convolutional_program_of_double_precision():
    with jax.enable_x64(True):
        model = latent_model(conv_decoder(2, (16, 16, 1), width=2, features=4), bernoulli())
        method = vae(model, conv_encoder((16, 16, 1), width=2, features=4))
        x = np.random.default_rng(0).uniform(size=(3, 16, 16, 1)).astype(np.float32)
        params = method.init(jax.random.key(0), jnp.asarray(x, jnp.float64))
        program = jax.export.deserialize(bytearray(export_inference(method, model, params)))
        z = program.call(np.uint32(0), x)["z"]
    assert z.dtype == np.float64
    assert np.isfinite(z).all()


def test_a_run_is_exported_and_runs_with_jax_alone(tmp_path, capsys):
    run = tmp_path / "run"
    small = ["--hidden", "8", "--latent-dim", "2", "--epochs", "1", "--num-seeds", "2"]
    assert cli.main(["train", *small, "--out", str(run)]) == 0
    assert cli.main(["export", str(run), "--member", "1", "--num-samples", "4"]) == 0
    told = capsys.readouterr().out
    assert "8×8×1" in told
    assert "x is grey level / 16, then drawn as 0 or 1 with that chance." in told
    arguments = [sys.executable, "-c", ALONE, str(run / "inference.jaxexport")]
    alone = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert alone.stdout.split(") (")[0] == "(4, 3, 2"
    assert all(platform in alone.stdout for platform in PLATFORMS)
    for wrong in (["--member", "2"], ["--num-samples", "0"]):
        assert cli.main(["export", str(run), *wrong]) == 1
        assert capsys.readouterr().err.count("\n") == 1


def test_a_file_that_is_no_program_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="gpvae export"):
        load_inference(tmp_path / "none")
    (tmp_path / "wrong").write_bytes(b"not a program")
    with pytest.raises(ValueError, match="cut short"):
        load_inference(tmp_path / "wrong")
