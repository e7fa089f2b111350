"""The experiment on regularised encoders, on a tiny run: what each changes, and the runs it cannot use."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import regularisation
from experiments.elbos import open_paired
from gpvae_jax import runs
from gpvae_jax.build import build_encoder
from gpvae_jax.refine import with_settings
from tests.test_config import small

KEY = jax.random.key(0)


def tiny(folder: Path) -> runs.Run:
    settings = small(data={"name": "digits"}, model={"likelihood": "gaussian"}, method="newton", train={"epochs": 1})
    return runs.create(folder, settings)


def test_an_encoder_is_changed_in_the_loss_alone(tmp_path: Path) -> None:
    setup = tiny(tmp_path / "run").setup
    x = setup.observation.evaluate(setup.dataset.test[:16])
    params = setup.method.init(KEY, x)
    values = [jax.jit(setup.method.loss)(params, jax.random.split(KEY)[1], x)[0]]
    for title in ("features dropped, 0.2", "noise on the encoder's input, 0.1"):
        changed = regularisation.CHANGES[title](setup)
        values.append(jax.jit(changed.method.loss)(params, KEY, x)[0])
        assert changed.method.posterior is setup.method.posterior
    assert len({float(value) for value in values}) == 3
    unchanged = regularisation.with_encoder(setup, lambda key, encoder: encoder)
    np.testing.assert_allclose(jax.jit(unchanged.method.loss)(params, KEY, x)[0], values[0], rtol=1e-6)


def test_dropped_features_keep_their_mean() -> None:
    encoder = build_encoder(small(model={"hidden": (200,)}).model, (8, 8, 1))
    x = jnp.ones((500, 8, 8, 1))
    params = encoder.init(KEY)
    plain, dropped = (np.asarray(e.apply(params, x)) for e in (encoder, regularisation.dropping(KEY, encoder)))
    active = plain[0] > 0.01
    ratios = dropped[:, active] / plain[:, active]
    kept = ratios != 0
    error = np.sqrt(regularisation.DROPPED * (1 - regularisation.DROPPED) / kept.size)
    assert abs(np.mean(~kept) - regularisation.DROPPED) < 4 * error
    np.testing.assert_allclose(ratios[kept], 1 / (1 - regularisation.DROPPED), rtol=1e-5)


@pytest.mark.slow
def test_own_samples_teach_the_encoder_and_not_the_model(tmp_path: Path) -> None:
    setup = tiny(tmp_path / "run").setup
    changed = regularisation.CHANGES["own samples for the encoder"](setup)
    x = setup.observation.evaluate(setup.dataset.test[:16])
    params = setup.method.init(KEY, x)
    more = jax.grad(lambda p: changed.method.loss(p, KEY, x)[0])(params)
    own = jax.grad(lambda p: setup.method.loss(p, jax.random.split(KEY, 3)[0], x)[0])(params)
    for a, b in zip(*(jax.tree.leaves(g.model) for g in (more, own)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * float(jnp.abs(b).max()) + 1e-7)
    apart = [jnp.abs(a - b).max() for a, b in zip(*(jax.tree.leaves(g.inference) for g in (more, own)), strict=True)]
    assert max(apart) > 1e-3


def test_the_decoders_curvature_takes_the_place_of_the_learned_one(tmp_path: Path) -> None:
    run = tiny(tmp_path / "run")
    x = run.setup.observation.evaluate(run.setup.dataset.test[:4])
    exact = with_settings(run, regularisation.EXACT)
    params = run.setup.method.init(KEY, x)
    means = [jax.jit(r.setup.method.posterior)(params, KEY, x)[0].mean for r in (run, exact)]
    assert np.abs(means[0] - means[1]).max() > 1e-3
    assert exact.folder == run.folder


@pytest.mark.slow
def test_every_row_is_trained_and_measured(tmp_path: Path) -> None:
    settings = {"data": {"name": "digits", "train_examples": 64}, "model": {"likelihood": "gaussian"}}
    data = runs.load_data(small(**{k: dict(v) for k, v in settings.items()}))
    options = {"epochs": 1, "batch_size": 32}
    for name, more in (("vae", {}), ("newton", {"start_from": str(tmp_path / "vae")})):
        made = small(method=name, **{k: dict(v) for k, v in settings.items()}, train=options | more)
        for _ in runs.records(runs.create(tmp_path / name, made, data)):
            pass
    command = regularisation.Regularisation(
        tmp_path / "vae", tmp_path / "newton", images=4, name="tiny", results=tmp_path / "results"
    )
    regularisation.main(command)
    text = (tmp_path / "results" / "regularisation_tiny.md").read_text()
    assert all(title in text.replace("−", "-") for title in regularisation.CHANGES)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("newton", "newton"), "Two of the runs' folders have one name"),
        (("newton", "other"), "A run of vae is needed, but .* is of newton"),
    ],
)
def test_what_cannot_be_used_is_refused(given: tuple[str, str], words: str, tmp_path: Path) -> None:
    for name in set(given):
        tiny(tmp_path / name)
    with pytest.raises(ValueError, match=words):
        regularisation.main(regularisation.Regularisation(*(tmp_path / name for name in given)))


def test_runs_of_other_images_do_not_pair(tmp_path: Path) -> None:
    """The same data seen otherwise are other images, although their checksum is the same."""
    seen = {"one": {"binarization": "static"}, "other": {"binarization": "static", "binarization_seed": 7}}
    for name, how in seen.items():
        runs.create(tmp_path / name, small(data={"name": "digits"} | how, model={"likelihood": "bernoulli"}))
    with pytest.raises(ValueError, match=r"do not have the same images, .*: binarization_seed is 7 in one and 0 in"):
        open_paired([tmp_path / "one", tmp_path / "other"])
