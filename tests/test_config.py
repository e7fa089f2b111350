"""Configurations: JSON round trip, overrides, and one sentence for whatever is wrong."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpvae_jax import config
from gpvae_jax.build import build
from gpvae_jax.config import Config, DataConfig, ModelConfig, TrainConfig
from gpvae_jax.data import from_arrays
from gpvae_jax.methods import METHODS
from gpvae_jax.optimizers import build_optimizer, check_train
from gpvae_jax.settings import method_settings

KEY = jax.random.key(0)
GREY = np.random.default_rng(0).integers(0, 256, (60, 4, 4, 1), np.uint8)
DATA = from_arrays(GREY[:40], GREY[40:50], GREY[50:], name="grey")
REAL = from_arrays(*(part / np.float32(255) for part in (GREY[:40], GREY[40:50], GREY[50:])), name="real")


def small(**changes: object) -> Config:
    groups = {"data": DataConfig, "model": ModelConfig, "train": TrainConfig}
    defaults: dict = {"model": {"hidden": (8,), "latent_dim": 2}, "train": {"batch_size": 8}}
    values = {name: defaults.get(name, {}) | changes.pop(name, {}) for name in groups}
    return Config(**{name: groups[name](**values[name]) for name in groups}, **changes)


def test_json_round_trip(tmp_path: Path) -> None:
    wanted = small(settings=("num_samples=2",), train={"patience": 3, "learning_rate": 0.5})
    path = tmp_path / "settings.json"
    path.write_text(json.dumps(config.to_dict(wanted)))
    assert config.read(path) == (wanted, ())
    path.write_text(json.dumps({"config": config.to_dict(wanted), "environment": {}}))  # a run folder's config.json
    assert config.read(path) == (wanted, ())


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"methd": "vae"}, "Unknown setting 'methd'; did you mean 'method'?"),
        ({"train": {"epoch": 3}}, "Unknown setting 'train.epoch'; did you mean 'train.epochs'?"),
        ({"train": {"epochs": "many"}}, "Setting 'train.epochs' must be int, got 'many'"),
        ({"train": {"patience": 1.5}}, "Setting 'train.patience' must be int or null, got 1.5"),
        ({"train": 3}, "Setting 'train' must be a group of settings"),
        ({"model": {"hidden": [10, "x"]}}, "Setting 'model.hidden' must be int, got 'x'"),
    ],
)
def test_wrong_settings_are_named(values: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match="^" + sentence.replace("?", r"\?")):
        config.from_dict(values)


def test_a_name_that_looks_like_a_number_is_a_name() -> None:
    assert config.override(Config(), "train.start_from", "1").train.start_from == "1"
    assert config.override(Config(), "train.epochs", "1").train.epochs == 1
    with pytest.raises(ValueError, match=r"'train\.epochs' must be int, got True"):
        config.override(Config(), "train.epochs", "true")


def test_unreadable_files_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no configuration file"):
        config.read(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(ValueError, match="not valid JSON"):
        config.read(tmp_path / "bad.json")
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(ValueError, match="must hold a JSON object, got a list"):
        config.read(tmp_path / "list.json")
    (tmp_path / "inner.json").write_text('{"config": "vae"}')
    with pytest.raises(ValueError, match=r"'config' in .* must hold a JSON object, got a str"):
        config.read(tmp_path / "inner.json")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"method": "vea"}, "Unknown method 'vea'; did you mean 'vae'?"),
        ({"model": {"likelihood": "bernouli"}}, "did you mean 'bernoulli'?"),
        ({"model": {"architecture": "cnv"}}, "did you mean 'conv'?"),
        ({"model": {"activation": "rely"}}, "did you mean 'relu'?"),
        ({"model": {"latent_dim": 0}}, "latent_dim must be at least 1"),
        ({"model": {"hidden": (8, 0)}}, "hidden must be at least 1, got 0"),
        ({"train": {"beta": float("nan")}}, "beta must be finite and at least 0, got nan"),
        ({"train": {"learning_rate": float("inf")}}, "learning_rate must be finite and above 0, got inf"),
        ({"model": {"architecture": "conv"}}, "of at least 16×16"),
        ({"data": {"binarization": "dinamic"}}, "did you mean 'dynamic'?"),
        ({"train": {"optimizer": "adm"}}, "did you mean 'adam'?"),
        ({"train": {"schedule": "cos"}}, "Unknown schedule 'cos'"),
        ({"train": {"batch_size": 41}}, "A batch of 41 needs at least as many training examples, got 40"),
        ({"settings": ("num_sample=3",)}, "did you mean 'num_samples'?"),
        ({"settings": ("num_samples",)}, "written name=value, got 'num_samples'"),
        ({"settings": ("num_samples=few",)}, "must be a whole number, got 'few'"),
        ({"settings": ("analytic_kl=maybe",)}, "must be true or false, got 'maybe'"),
    ],
)
def test_settings_that_fit_nothing_are_one_sentence(changes: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=".*" + sentence.replace("?", r"\?")):
        build(small(**changes), DATA)


@pytest.mark.parametrize("method", METHODS)
def test_a_number_no_method_can_use_is_one_sentence(method: str) -> None:
    """Whatever number a setting is given, the method can be built and traced, or says what it expected."""
    for name, default in method_settings(METHODS[method]).items():
        if isinstance(default, bool | str):
            continue
        for text in ("0", "-1", "nan") if isinstance(default, float) else ("0", "-1"):
            wanted = small(method=method, settings=(f"{name}={text}",))
            try:
                setup = build(wanted, DATA)
            except ValueError as error:
                assert str(error).endswith(f", got {float(text) if isinstance(default, float) else text}."), error  # noqa: PT017
                continue
            assert text != "nan"
            x = setup.observation.evaluate(setup.data.train[:2])
            params = jax.eval_shape(setup.method.init, KEY, x)
            jax.eval_shape(setup.method.loss, params, KEY, x)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", 0), ("batch_size", 0), ("learning_rate", 0.0), ("validation_samples", 0), ("warmup_epochs", -1.0),
        ("beta", -0.5), ("patience", 0), ("num_seeds", 0), ("clip_norm", 0.0), ("ema_decay", 1.0),
        ("weight_decay", -0.1),
    ],
)  # fmt: skip
def test_numbers_out_of_range_are_named(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} must .*got {value}"):
        check_train(TrainConfig(**{name: value}))


def test_binarization_follows_the_likelihood_unless_given() -> None:
    assert build(small(), DATA).config.data.binarization == "dynamic"
    assert build(small(model={"likelihood": "gaussian"}), DATA).config.data.binarization == "none"
    assert build(small(data={"binarization": "static"}), DATA).config.data.binarization == "static"
    binary = from_arrays(GREY > 127, name="binary")
    assert build(small(), binary).config.data.binarization == "none"


def test_real_valued_data_are_checked_by_the_likelihood() -> None:
    build(small(), REAL)
    with pytest.raises(ValueError, match="expects integer grey levels"):
        build(small(model={"likelihood": "discretized_logistic"}), REAL)
    wide = from_arrays(GREY.astype(np.float32), name="wide")
    with pytest.raises(ValueError, match=r"in \[0, 1\], but 'wide' holds values from"):
        build(small(), wide)
    with pytest.raises(ValueError, match=r"The bernoulli likelihood expects data in \[0, 1\]"):
        build(small(data={"binarization": "none"}), wide)
    build(small(model={"likelihood": "gaussian"}), wide)


def test_schedule_warms_up_and_falls_to_zero() -> None:
    settings = TrainConfig(optimizer="sgd", learning_rate=2.0, schedule="cosine", warmup_epochs=2, epochs=10)
    optimizer = build_optimizer(settings, steps_per_epoch=5)
    state, rates = optimizer.init(jnp.zeros(())), []
    for _ in range(50):
        with jax.numpy_dtype_promotion("standard"):
            update, state = optimizer.update(jnp.ones(()), state)
        rates.append(-float(update))
    assert rates[0] == 0.0
    assert rates[10] == pytest.approx(2.0)
    assert rates[30] == pytest.approx(1.0)  # half way down the cosine
    assert rates[-1] < 0.01


@pytest.mark.parametrize(("name", "shrunk"), [("adamw", 0.5 * 0.1), ("adam", 0.0)])
def test_weight_decay_is_adamws_alone(name: str, shrunk: float) -> None:
    optimizer = build_optimizer(TrainConfig(optimizer=name, learning_rate=0.5, weight_decay=0.1), steps_per_epoch=1)
    weights = jnp.array([2.0, -4.0])
    with jax.numpy_dtype_promotion("standard"):
        update, _ = optimizer.update(jnp.zeros(2), optimizer.init(weights), weights)
    np.testing.assert_allclose(update, -shrunk * weights, rtol=1e-6)


def test_method_is_told_the_number_of_training_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    from gpvae_jax import methods

    seen = {}

    def factory(model: object, encoder: object, *, num_data: int, scale: float = 1.0) -> object:
        seen.update(num_data=num_data, scale=scale)
        return methods.vae(model, encoder)

    monkeypatch.setitem(methods.METHODS, "probe", factory)
    build(small(method="probe", settings=("scale=0.5",)), DATA)
    assert seen == {"num_data": 40, "scale": 0.5}


def test_any_method_trains_on_the_importance_weighted_bound() -> None:
    setup = build(small(method="iaf", settings=("width=8",), train={"iwae_samples": 4}), DATA)
    x = setup.observation.evaluate(jnp.asarray(setup.dataset.test[:8]))
    params = setup.method.init(jax.random.key(0), x)
    _, metrics = jax.jit(setup.method.loss)(params, jax.random.key(1), x)
    assert metrics["iwae"] > metrics["elbo"]
    with pytest.raises(ValueError, match="iwae_samples must be at least 1, got 0"):
        build(small(train={"iwae_samples": 0}), DATA)
