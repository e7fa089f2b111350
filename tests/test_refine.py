"""Refinement of a finished run at test time."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpvae_jax import cli, runs
from gpvae_jax.evaluate.run import SPLITS, params_by_seed, split_examples
from gpvae_jax.refine import STEPPING, refined, with_steps
from tests.test_config import small

TINY = ["--latent-dim", "3", "--hidden", "24", "--epochs", "3"]
GPVAE = ["--settings", "weight_posterior=full"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folders = {name: tmp_path_factory.mktemp("runs") / name for name in ("vae", "gpvae")}
    for name, folder in folders.items():
        settings = GPVAE if name == "gpvae" else []
        assert cli.main(["train", "--method", name, *TINY, *settings, "--out", str(folder)]) == 0
    return folders


@pytest.mark.parametrize("base", ["vae", "gpvae"])
@pytest.mark.parametrize("name", ["newton", "savi", "svi"])
def test_no_steps_are_the_base(trained, base, name):
    run = runs.open_run(trained[base])
    params = params_by_seed(run)[0]
    x = run.setup.observation.evaluate(run.setup.dataset.test[:7])
    settings = ["covariance=base"] if name == "newton" else []
    methods = refined(run, name, 0, settings).setup.method, run.setup.method
    q, own = (jax.jit(method.posterior)(params, jax.random.key(0), x)[0] for method in methods)
    np.testing.assert_allclose(q.mean, own.mean, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(q.variance, own.variance, rtol=1e-4, atol=1e-6)


def test_steps_raise_the_bound_and_results_have_their_own_folder(trained, capsys):
    folder = trained["vae"]
    evaluate = ["evaluate", str(folder), "--num-samples", "20", "--max-examples", "100"]
    assert cli.main(evaluate) == 0
    for steps in ("1", "3"):
        assert cli.main([*evaluate, "--refine", "newton", "--steps", steps]) == 0
    places = [folder, *(folder / "refined" / f"newton-steps-{n}" for n in (1, 3))]
    base, one, three = (json.loads((p / "results.json").read_text())["test"]["elbo"]["mean"] for p in places)
    assert base + 0.3 < one < three + 0.05  # nats; the gap is above one here, the Monte-Carlo error below 0.05


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--refine", "nowton"], "newton"),
        (["--refine", "newton", "--refine-settings", "stps=2"], "steps"),
        (["--refine", "newton", "--refine-settings", "curvature=learned"], "train with --method newton"),
        (["--steps", "2"], "a run of vae, which takes no steps of its own"),
        (["--refine-settings", "covariance=base"], "--refine"),
    ],
)
def test_a_wrong_refinement_is_told_in_one_sentence(trained, capsys, arguments, words):
    assert cli.main(["evaluate", str(trained["vae"]), *arguments]) == 1
    message = capsys.readouterr().err
    assert words in message
    assert message.count("\n") == 1


def test_refinements_follow_one_another_and_come_after_own_steps(trained, tmp_path):
    run = runs.open_run(trained["gpvae"])
    twice = refined(refined(run, "savi", 1), "newton", 1)
    x = run.setup.observation.evaluate(run.setup.dataset.test[:3])
    q, _ = jax.jit(twice.setup.method.posterior)(params_by_seed(run)[0], jax.random.key(0), x)
    assert np.isfinite(q.mean).all()
    assert twice.folder == trained["gpvae"] / "refined" / "savi-steps-1" / "refined" / "newton-steps-1"
    own = runs.create(tmp_path / "savi", small(data={"name": "digits"}, method="savi"))
    with pytest.raises(ValueError, match="is refined by newton, and its own steps come before that"):
        with_steps(refined(own, "newton", 2), 3)
    assert refined(with_steps(own, 3), "newton", 2).refinement == "newton"


def test_a_refinement_that_cannot_be_leaves_no_folder(tmp_path, capsys):
    folder = tmp_path / "run"
    assert cli.main(["train", "--method", "newton", *TINY[:-1], "1", "--out", str(folder)]) == 0
    assert cli.main(["evaluate", str(folder), "--num-samples", "2", "--refine", "savi"]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert not (folder / "refined").exists()


@pytest.mark.parametrize("method", STEPPING)
def test_a_run_takes_other_numbers_of_its_own_steps(method, tmp_path):
    run = runs.create(tmp_path / method, small(data={"name": "digits"}, method=method, settings=["steps=1"]))
    setup, key, same, more = run.setup, jax.random.key(0), with_steps(run, 1), with_steps(run, 3)
    assert (more.folder, more.trained) == (run.folder / "refined" / "steps-3", run.folder)
    for split in SPLITS:  # grey images under a Bernoulli likelihood: the same draws
        np.testing.assert_array_equal(*(split_examples(r, split, 9, 0) for r in (run, more)))
    made = [r.setup.method.init(key, setup.data.train[:2]) for r in (run, more)]
    assert jax.tree.map(jnp.shape, made[0]) == jax.tree.map(jnp.shape, made[1])
    x = setup.observation.evaluate(setup.dataset.test[:3])
    own, unchanged, further = (jax.jit(r.setup.method.posterior)(made[0], key, x)[0].mean for r in (run, same, more))
    np.testing.assert_array_equal(own, unchanged)
    assert np.abs(further - own).max() > 1e-4


def test_more_steps_of_a_trained_run_are_evaluated_beside_it(tmp_path, capsys):
    run = tmp_path / "newton"
    assert cli.main(["train", "--method", "newton", *TINY[:-1], "1", "--out", str(run)]) == 0
    evaluate = ["evaluate", str(run), "--num-samples", "2", "--max-examples", "4"]
    assert cli.main([*evaluate, "--steps", "2"]) == 0
    assert (run / "refined" / "steps-2" / "results.json").is_file()
    assert not (run / "results.json").exists()
    capsys.readouterr()
    assert cli.main([*evaluate, "--steps", "-1"]) == 1
    assert "steps must be at least 0, got -1" in capsys.readouterr().err
