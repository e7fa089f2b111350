"""From a `Config` and a data set to the functions that train and evaluate it: where names become objects."""

import dataclasses
import inspect
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gpvae_jax import networks, train
from gpvae_jax.augmentation import AUGMENTATIONS
from gpvae_jax.capacity import inference_size, match_capacity
from gpvae_jax.checks import check_at_least
from gpvae_jax.config import Config, ModelConfig, TrainConfig
from gpvae_jax.data import Dataset
from gpvae_jax.likelihoods import LIKELIHOODS, Likelihood
from gpvae_jax.methods import METHODS
from gpvae_jax.methods.gpvae import as_gaussian, with_weight_kl
from gpvae_jax.methods.vae import vae
from gpvae_jax.model import latent_model
from gpvae_jax.naming import unknown
from gpvae_jax.objectives import frozen, iwae_trained, with_base_loss
from gpvae_jax.observation import Observation, observe, of_copies
from gpvae_jax.optimizers import beta_schedule, build_optimizer, check_train
from gpvae_jax.settings import has_base, parse_settings
from gpvae_jax.types import InferenceMethod, LatentModel, Network

ARCHITECTURES = ("mlp", "conv")
BASE = "base="  # the setting that names the method another is built over
# what shapes a method's own loss and nothing else, besides num_samples, which does so in all of them
OF_LOSS = {
    "vae": {"analytic_kl"},
    "gpvae": {"objective"},
    "iwae": {"doubly_reparameterized"},
    "mixture": {"estimator", "num_drawn"},
    "recmix": {"objective", "cap", "cap_on", "against", "entropy_weight"},
}


class Setup(NamedTuple):
    """Everything one configuration stands for."""

    config: Config
    given: Dataset  # as it was loaded
    dataset: Dataset  # with the draws of its binarisation made
    observation: Observation
    likelihood: Likelihood
    model: LatentModel
    method: InferenceMethod
    trainer: train.Trainer
    data: train.TrainingData


def build(config: Config, dataset: Dataset) -> Setup:
    """Assemble a run. Raises ValueError, one sentence, on any setting that does not fit the others or the data."""
    config = resolve(config, dataset)
    check_train(config.train)
    likelihood = build_likelihood(config.model.likelihood, dataset.levels)
    given = dataset
    dataset, observation = observe(given, str(config.data.binarization), config.data.binarization_seed)
    if dataset.levels is None:  # integer grey levels lie in [0, 1] by construction
        for part in (dataset.train, dataset.validation, dataset.test):
            likelihood.check(part)
    data = training_data(config, given, dataset)
    train.check_fit(data, config.train.batch_size)
    check_closed_form(config)
    model, method = build_model_and_method(config, likelihood, data.train.shape[1:], len(data.train))
    if config.train.augment is not None:
        jax.eval_shape(AUGMENTATIONS[config.train.augment], jax.random.key(0), data.train[:1])
        observation = of_copies(observation, dataset.levels, likelihood.name)
    trainer = build_trainer(config.train, model, method, observation, data)
    return Setup(config, given, dataset, observation, likelihood, model, method, trainer, data)


def build_trainer(
    settings: TrainConfig,
    model: LatentModel,
    method: InferenceMethod,
    observation: Observation,
    data: train.TrainingData,
) -> train.Trainer:
    """What trains a method as a configuration says, on so much data."""
    steps_per_epoch = max(1, len(data.train) // settings.batch_size)
    return train.trainer(
        method,
        model,
        build_optimizer(settings, steps_per_epoch),
        observation,
        batch_size=settings.batch_size,
        beta=beta_schedule(settings, steps_per_epoch),
        ema_decay=settings.ema_decay,
        patience=settings.patience,
        validation_samples=settings.validation_samples,
        from_model=settings.examples == "model",
        augment=None if settings.augment is None else AUGMENTATIONS[settings.augment],
    )


def resolve(config: Config, dataset: Dataset) -> Config:
    """The configuration with its binarisation spelled out, as it is recorded."""
    if config.data.binarization is not None:
        return config
    grey = config.model.likelihood == "bernoulli" and dataset.levels != 2
    data = dataclasses.replace(config.data, binarization="dynamic" if grey else "none")
    return dataclasses.replace(config, data=data)


def build_likelihood(name: str, levels: int | None) -> Likelihood:
    """A likelihood by name; the discretised logistic takes the grey levels of the data, None where they are real."""
    if name not in LIKELIHOODS:
        raise ValueError(unknown("likelihood", name, LIKELIHOODS))
    if name != "discretized_logistic":
        return LIKELIHOODS[name]()
    if levels is None:
        raise ValueError(
            "The discretized_logistic likelihood expects integer grey levels, but the data hold real values; give "
            "uint8 images or choose the gaussian likelihood."
        )
    return LIKELIHOODS[name](levels)


def training_data(config: Config, given: Dataset, dataset: Dataset) -> train.TrainingData:
    """What is trained on and what validates it; `dataset` is the `given` one with its draws made."""
    training, validation = dataset.train, dataset.validation
    count = num_training(config, len(training), len(validation))
    if config.train.examples == "held_out":
        source = given if config.data.binarization == "dynamic" else dataset  # dynamic draws are made in the step
        training, validation = source.validation, validation[held_out(len(validation)) :]
    return train.TrainingData(jnp.asarray(training[:count]), jnp.asarray(validation))


def num_training(config: Config, training: int, validation: int) -> int:
    """How many examples are trained on, of so many training and validation images."""
    there = held_out(validation) if config.train.examples == "held_out" else training
    wanted = config.data.train_examples
    if wanted is None:
        return there
    if not 0 < wanted <= there:
        raise ValueError(f"train_examples must be from 1 to the {there} there are, got {wanted}.")
    return wanted


def held_out(validation: int) -> int:
    """How many validation images train what is not trained on training images; the others validate."""
    return 4 * validation // 5


def build_model_and_method(
    config: Config, likelihood: Likelihood, data_shape: tuple[int, ...], num_data: int
) -> tuple[LatentModel, InferenceMethod]:
    """The generative model and the method, whose encoder is widened where a `capacity` is to be matched.

    data_shape: of an example. num_data: how many are trained on.
    """
    model, encoder = build_model(config.model, likelihood, data_shape)
    if config.model.capacity is not None:
        name, *settings = config.model.capacity.split(",")
        rival = dataclasses.replace(config, method=name, settings=tuple(settings))
        target = inference_size(build_method(rival, model, encoder, num_data=num_data), model)
        _, encoder = match_capacity(
            lambda width: build_encoder(config.model, data_shape, width),
            target,
            count=lambda e: inference_size(build_method(config, model, e, num_data=num_data), model),
        )
    return model, build_method(config, model, encoder, num_data=num_data)


def build_model(
    settings: ModelConfig, likelihood: Likelihood, data_shape: tuple[int, ...]
) -> tuple[LatentModel, Network]:
    """The generative model and the encoder network of a configuration."""
    check_at_least(1, latent_dim=settings.latent_dim, width=settings.width, features=settings.features)
    for units in settings.hidden:
        check_at_least(1, hidden=units)
    if settings.architecture not in ARCHITECTURES:
        raise ValueError(unknown("architecture", settings.architecture, ARCHITECTURES))
    activation = settings.activation
    if settings.architecture == "mlp":
        decoder = networks.mlp(
            (settings.latent_dim,), tuple(reversed(settings.hidden)), data_shape, activation=activation
        )
    else:
        decoder = networks.conv_decoder(
            settings.latent_dim, data_shape, width=settings.width, features=settings.features, activation=activation
        )
    return latent_model(decoder, likelihood), build_encoder(settings, data_shape)


def build_encoder(settings: ModelConfig, data_shape: tuple[int, ...], width: int | None = None) -> Network:
    """The encoder; given a `width` of its first layer, all others are widened by the same factor."""
    if settings.architecture == "mlp":
        hidden = settings.hidden
        if width is not None:
            hidden = tuple(max(1, round(units * width / hidden[0])) for units in hidden)
        return networks.mlp(data_shape, hidden, activation=settings.activation)
    first, features = settings.width, settings.features
    if width is not None:
        first, features = width, max(1, round(features * width / first))
    return networks.conv_encoder(data_shape, width=first, features=features, activation=settings.activation)


def build_method(config: Config, model: LatentModel, encoder: Network, *, num_data: int) -> InferenceMethod:
    """A method by name with its settings, over another where base=NAME,setting=value,… is among them.

    It is trained on its own loss, or on the bound of train.iwae_samples, with train.base_weight on its base's loss as
    well, but for what is frozen. A base gpvae serves as the Gaussian of its moments (`as_gaussian`). Whatever the loss,
    it has the KL of a gpvae's weights.
    """
    method, base = _with_loss(config, model, encoder, num_data)
    if config.train.base_weight:
        method = with_base_loss(method, base, config.train.base_weight)
    return method if config.train.frozen is None else frozen(method, config.train.frozen)


def _with_loss(
    config: Config, model: LatentModel, encoder: Network, num_data: int
) -> tuple[InferenceMethod, InferenceMethod]:
    """The method, whose loss is its own or an importance-weighted bound, and its base, by default a VAE."""
    own, over = _own_and_base(config)
    factory, settings = _factory(config.method, own, num_data)
    own_loss = config.train.iwae_samples is None
    if over is None:
        method = _trained(config.train, factory(model, encoder, **settings), model)
        method = method if own_loss or config.method != "gpvae" else _with_weight_kl(method, settings)
        return method, vae(model, encoder)
    if not has_base(factory):
        known = ", ".join(sorted(name for name in METHODS if has_base(METHODS[name])))
        raise ValueError(f"{config.method} is built over no other method, so it has no base; these have: {known}.")
    name, *items = over
    make_base, base_settings = _factory(name, items, num_data)
    base = make_base(model, encoder, **base_settings)
    if name != "gpvae":
        method = _trained(config.train, factory(model, encoder, base=base, **settings), model)
        method = method if own_loss or config.method != "gpvae" else _with_weight_kl(method, settings)
        return method, base
    if config.method == "gpvae":
        raise ValueError("A gpvae models the errors of another method than a gpvae; take another base, or none.")
    method = _trained(config.train, factory(model, encoder, base=as_gaussian(base), **settings), model)
    if own_loss and config.method == "svi":  # it trains nothing of its own: its loss is the gpvae's, the KL included
        return method, base
    return _with_weight_kl(method, base_settings), base


def _own_and_base(config: Config) -> tuple[list[str], list[str] | None]:
    """A method's own settings, and name and settings of the method it is built over, None where it is over none."""
    own = [item for item in config.settings if not item.startswith(BASE)]
    bases = [item.removeprefix(BASE).split(",") for item in config.settings if item.startswith(BASE)]
    return own, bases[-1] if bases else None


def _trained(config: TrainConfig, method: InferenceMethod, model: LatentModel) -> InferenceMethod:
    """The method on its own loss, or on the importance-weighted bound."""
    count, doubly = config.iwae_samples, config.doubly_reparameterized
    return method if count is None else iwae_trained(method, model, num_samples=count, doubly_reparameterized=doubly)


def _with_weight_kl(method: InferenceMethod, settings: dict[str, Any]) -> InferenceMethod:
    """A method whose loss is not the gpvae's of these settings but has the KL of its weights."""
    wanted = {key: settings[key] for key in ("weight_posterior", "rank", "prior_scale") if key in settings}
    return with_weight_kl(method, settings["num_data"], **wanted)


def _factory(name: str, items: Iterable[str], num_data: int) -> tuple[Callable[..., InferenceMethod], dict[str, Any]]:
    """A method's factory and settings; one that asks for `num_data` is told the training set's size."""
    if name not in METHODS:
        raise ValueError(unknown("method", name, METHODS))
    settings = parse_settings(name, METHODS[name], items)
    if "num_data" in inspect.signature(METHODS[name]).parameters:
        settings.setdefault("num_data", num_data)
    return METHODS[name], settings


def check_used(config: Config) -> None:
    """Raise ValueError, one sentence, where a setting of a run that is to be made would have no effect."""
    samples = config.train.iwae_samples
    if config.train.doubly_reparameterized and samples is None:
        raise ValueError(
            "doubly_reparameterized is a gradient of the importance-weighted bound; say of how many samples with "
            "--iwae-samples, or leave it out."
        )
    if config.train.frozen is not None and not config.train.epochs:
        raise ValueError("frozen is for what is trained on, but epochs is 0 here; leave it out.")
    if config.train.augment is not None and not config.train.epochs:
        raise ValueError("augment is for training images, but epochs is 0 here; leave it out.")
    if config.train.base_weight and not config.train.epochs:
        raise ValueError("base_weight is for what is trained on, but epochs is 0 here; leave it out.")
    if config.train.base_weight and config.train.frozen == "base":
        raise ValueError("base_weight trains the base, which frozen=base leaves as it is; leave one of them out.")
    own, over = _own_and_base(config)
    _, settings = _factory(config.method, own, 1)
    if samples is not None and settings.get("refinement") == "newest":
        raise ValueError("refinement=newest trains the newest component alone, but iwae_samples all; leave one out.")
    of_loss = sorted(settings.keys() & ({"num_samples"} | OF_LOSS.get(config.method, set())))
    if samples is not None and of_loss:
        raise ValueError(
            f"iwae_samples replaces the loss of {config.method}, which {' and '.join(of_loss)} would shape; leave one "
            "of them out."
        )
    if config.train.epochs and ((over and over[0] == "svi") or (samples is not None and config.method == "svi")):
        raise ValueError(
            "svi optimises every example's posterior and lets no gradient through, so that as a base, or on the "
            "importance-weighted bound, nothing would train its encoder; train the method without it and refine the "
            "finished run with --refine svi."
        )


def check_closed_form(config: Config) -> None:
    """Raise ValueError, one sentence, where a closed-form fit is asked for that cannot be made."""
    count = config.train.closed_form
    if count is None:
        return
    check_at_least(1, closed_form=count)
    own, _ = _own_and_base(config)
    settings = _factory("gpvae", own, 1)[1] if config.method == "gpvae" else {}
    if config.train.epochs or settings.get("weight_posterior") != "full":
        raise ValueError(
            "closed_form needs epochs 0, start_from, and the method gpvae with weight_posterior=full, got epochs "
            f"{config.train.epochs} and {config.method} with {', '.join(config.settings) or 'no settings'}."
        )
    if "prior_scale" in settings:
        raise ValueError("closed_form finds the prior_scale of the greatest evidence; leave the setting out.")
