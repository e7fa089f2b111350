"""A run's settings as frozen dataclasses: the command line, `config.json` and Python code share them."""

import contextlib
import dataclasses
import json
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from gpvae_jax.naming import unknown


@dataclass(frozen=True)
class DataConfig:
    """What is trained on."""

    name: Annotated[str, tyro.conf.arg(name="data")] = "digits"
    """A data set (see `gpvae list`), or the path of your own .npz or .npy file."""
    train_examples: int | None = None
    """Train on only so many examples, the first ones."""
    binarization: str | None = None
    """none, static (drawn once) or dynamic (drawn anew every time). By default dynamic where the Bernoulli likelihood
    meets grey images, otherwise none."""
    binarization_seed: int = 0
    """Seed of the draws that are made only once; runs to be compared must share it."""
    data_dir: str | None = None
    """Where prepared data sets are kept (default: $GPVAE_JAX_DATA, else ~/.cache/gpvae_jax)."""
    raw_dir: str | None = None
    """Folder with the data set's original files, for machines without a network."""


@dataclass(frozen=True)
class ModelConfig:
    """The generative model and the size of the networks, the same for every method."""

    likelihood: str = "bernoulli"
    """bernoulli, gaussian (one learned variance) or discretized_logistic (integer grey levels)."""
    latent_dim: int = 20
    """Number of latent dimensions Z."""
    architecture: str = "mlp"
    """mlp or conv (4×4 convolutions of stride 2, for images of 16×16 and more)."""
    hidden: tuple[int, ...] = (400, 400)
    """Widths of the mlp's hidden layers; the decoder mirrors the encoder."""
    width: int = 32
    """Channels of the first convolution; each further one doubles them."""
    features: int = 256
    """Units of the conv architecture's fully connected layer."""
    activation: str = "relu"
    """relu, tanh, gelu or silu."""
    capacity: str | None = None
    """Widen the encoder until the method's inference side has as many parameters as this method's, which is written
    NAME or NAME,setting=value,…: what a method gains against a rival as large as itself."""


@dataclass(frozen=True)
class TrainConfig:
    """How it is trained."""

    epochs: int = 100
    """With start_from it may be 0: another method's inference over parameters that are already trained."""
    batch_size: int = 128
    optimizer: str = "adam"
    """adam, adamw, adamax or sgd."""
    learning_rate: float = 1e-3
    schedule: str = "constant"
    """constant, or cosine (to zero over all epochs)."""
    warmup_epochs: float = 0.0
    """Epochs over which the learning rate rises from zero."""
    clip_norm: float | None = None
    """Largest global norm of a gradient."""
    weight_decay: float = 1e-4
    """Of adamw: every step shrinks the parameters by this times the learning rate."""
    ema_decay: float | None = None
    """Decay of a moving average of the parameters, which then is validated and kept."""
    beta: float = 1.0
    """Weight of the KL term."""
    iwae_samples: int | None = None
    """Train on the importance-weighted bound of so many samples, whatever the method (by default on its own loss)."""
    doubly_reparameterized: bool = False
    """Of that bound, with the doubly-reparameterised gradient; for posteriors that have a log_prob."""
    beta_warmup_epochs: float = 0.0
    """Epochs over which the KL's weight rises from zero."""
    patience: int | None = None
    """Stop after so many epochs without a better validation bound."""
    validation_samples: int = 1
    """Draws of z per validation example."""
    seed: int = 0
    num_seeds: int | None = None
    """Train so many runs at once, in one vectorised program."""
    start_from: str | None = None
    """Folder of a trained run whose parameters this one starts from, seed by seed (by default from scratch)."""
    examples: str = "train"
    """What is trained on: train; held_out, four fifths of the validation set, the others validating; or model, fresh
    draws of the decoder that start_from has trained."""
    augment: str | None = None
    """affine: beside every image of a batch a copy of it, turned, scaled, sheared and shifted at random. For data whose
    test images are unlike the training images; each step costs twice as much. Training's own metrics are means over
    both."""
    base_weight: float = 0.0
    """Weight, below 1, of the loss of the method's base, beside its own: what newton, savi, iterative, vlae or gpvae
    add to their base then starts from a better one where inputs are unlike the training images."""
    frozen: str | None = None
    """With start_from, what stays as it was trained: model, the decoder; or base, the decoder and the method's base as
    well, so that only what the method adds to it is learned."""
    closed_form: int | None = None
    """With start_from, epochs 0 and the method gpvae of full weight covariances: fit its error posterior in closed form
    to so many examples, or all there are."""


@dataclass(frozen=True)
class Config:
    """One run."""

    method: str = "vae"
    """The inference method (see `gpvae list`)."""
    settings: tuple[str, ...] = ()
    """The method's own settings as name=value, e.g. num_samples=4 (see `gpvae list`); base=NAME,setting=value,… builds
    it over another method, as in savi over a gpvae."""
    data: tyro.conf.OmitArgPrefixes[DataConfig] = field(default_factory=DataConfig)
    model: tyro.conf.OmitArgPrefixes[ModelConfig] = field(default_factory=ModelConfig)
    train: tyro.conf.OmitArgPrefixes[TrainConfig] = field(default_factory=TrainConfig)


def to_dict(config: Config) -> dict[str, Any]:
    """Nested dict, ready for JSON."""
    return dataclasses.asdict(config)


def from_dict(values: dict[str, Any]) -> Config:
    """A `Config` from nested dicts; what is left out keeps its default. Raises ValueError on a wrong name or type."""
    return _build(Config, values, "")


def override(config: Config, name: str, text: str) -> Config:
    """The configuration with one setting, named as in model.latent_dim or train.epochs, read from text.

    The text is JSON where it can be, else the string itself. Raises ValueError where the name is unknown or the
    value of another type.
    """
    try:
        value = json.loads(text)
    except ValueError:
        value = text
    values = to_dict(config)
    group, _, last = name.rpartition(".")
    inner = values
    for part in group.split("."):
        if not isinstance(inner.get(part), dict):
            raise ValueError(unknown("group of settings", group, (n for n, v in values.items() if isinstance(v, dict))))
        inner = inner[part]
    inner[last] = value
    try:
        return from_dict(values)
    except ValueError:
        inner[last] = text  # a name may look like a number
        with contextlib.suppress(ValueError):
            return from_dict(values)
        raise


def read(path: str | Path) -> tuple[Config, tuple[str, ...]]:
    """Read a JSON file made by hand, or the `config.json` of a run folder.

    Returns the configuration and the rows of a comparison that the file lists under "methods", often none.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no configuration file {path}; give the path of a JSON file.")
    try:
        values = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"The configuration {path} is not valid JSON: {error}.") from error
    if not isinstance(values, dict):
        raise ValueError(f"The configuration {path} must hold a JSON object, got a {type(values).__name__}.")
    values = values.get("config", values)
    if not isinstance(values, dict):
        raise ValueError(f"'config' in {path} must hold a JSON object, got a {type(values).__name__}.")
    values = dict(values)
    methods = _value(tuple[str, ...], values.pop("methods", []), "methods")
    return from_dict(values), methods


def _build(kind: type, values: dict[str, Any], prefix: str) -> Any:
    hints = typing.get_type_hints(kind)
    for name in values:
        if name not in hints:
            raise ValueError(unknown("setting", prefix + name, [prefix + known for known in hints]))
    return kind(**{name: _value(hints[name], value, prefix + name) for name, value in values.items()})


def _value(hint: Any, value: Any, name: str) -> Any:
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, dict):
            raise ValueError(f"Setting '{name}' must be a group of settings, got {value!r}.")
        return _build(typing.cast(type, hint), value, name + ".")
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    for option in options:
        if typing.get_origin(option) is tuple and isinstance(value, list | tuple):
            return tuple(_value(typing.get_args(option)[0], item, name) for item in value)
        if option is float and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        if isinstance(option, type) and type(value) is option:
            return value
    wanted = " or ".join("null" if o is type(None) else getattr(o, "__name__", str(o)) for o in options)
    raise ValueError(f"Setting '{name}' must be {wanted}, got {value!r}.")
