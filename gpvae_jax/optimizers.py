"""The optimiser and the weight of the KL that a training configuration stands for, and the check of its numbers."""

from collections.abc import Callable
from typing import Any

import jax
import optax

from gpvae_jax.augmentation import AUGMENTATIONS
from gpvae_jax.checks import check_above, check_at_least, check_seed
from gpvae_jax.config import TrainConfig
from gpvae_jax.naming import unknown
from gpvae_jax.objectives import FROZEN, is_frozen

OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "adam": optax.adam,
    "adamw": optax.adamw,
    "adamax": optax.adamax,
    "sgd": optax.sgd,
}
SCHEDULES = ("constant", "cosine")
EXAMPLES = ("train", "held_out", "model")


def build_optimizer(config: TrainConfig, steps_per_epoch: int) -> optax.GradientTransformation:
    """The optax optimiser with its schedule and clipping."""
    if config.optimizer not in OPTIMIZERS:
        raise ValueError(unknown("optimizer", config.optimizer, OPTIMIZERS))
    if config.schedule not in SCHEDULES:
        raise ValueError(unknown("schedule", config.schedule, SCHEDULES))
    warmup, total = round(config.warmup_epochs * steps_per_epoch), config.epochs * steps_per_epoch
    if config.schedule == "cosine":
        rate = optax.cosine_decay_schedule(config.learning_rate, max(1, total - warmup))
    else:
        rate = optax.constant_schedule(config.learning_rate)
    if warmup:
        rise = optax.linear_schedule(0.0, config.learning_rate, warmup)
        rate = optax.join_schedules([rise, rate], [warmup])
    settings: dict[str, Any] = {}
    if config.optimizer == "adamw":
        settings = {"weight_decay": config.weight_decay}
        if (part := config.frozen) is not None:  # the decay asks for no gradient
            settings["mask"] = lambda params: jax.tree.map(lambda fixed: not fixed, is_frozen(params, part))
    optimizer = OPTIMIZERS[config.optimizer](rate, **settings)
    if config.clip_norm is None:
        return optimizer
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), optimizer)


def beta_schedule(config: TrainConfig, steps_per_epoch: int) -> Callable[[Any], Any]:
    """The weight of the KL, by the step: warmed up linearly where that is asked for."""
    warmup = round(config.beta_warmup_epochs * steps_per_epoch)
    if not warmup:
        return optax.constant_schedule(config.beta)
    return optax.linear_schedule(0.0, config.beta, warmup)


def check_train(config: TrainConfig) -> None:
    """Raise ValueError, one sentence, on a training setting out of range."""
    check_seed(seed=config.seed)
    check_above(0, learning_rate=config.learning_rate)
    check_at_least(1, batch_size=config.batch_size, validation_samples=config.validation_samples)
    if config.epochs < 1 and (config.epochs < 0 or config.start_from is None):
        raise ValueError(
            f"epochs must be above 0, got {config.epochs}; 0 is for a run that takes over what start_from has trained."
        )
    if config.examples not in EXAMPLES:
        raise ValueError(unknown("choice of examples", config.examples, EXAMPLES))
    if config.examples == "model" and config.start_from is None:
        raise ValueError("Examples drawn from the model need a trained one; give its run with --start-from.")
    if config.augment is not None and config.augment not in AUGMENTATIONS:
        raise ValueError(unknown("augmentation", config.augment, AUGMENTATIONS))
    if config.augment is not None and config.examples == "model":
        raise ValueError("The model's own examples are as many as one likes already; leave augment out.")
    if config.frozen is not None and config.frozen not in FROZEN:
        raise ValueError(unknown("part to freeze", config.frozen, FROZEN))
    if config.frozen is not None and config.start_from is None:
        raise ValueError("What is frozen has to be trained before; give its run with --start-from.")
    for name in ("warmup_epochs", "beta_warmup_epochs", "beta", "weight_decay"):
        check_at_least(0, **{name: getattr(config, name)})
    for name in ("patience", "num_seeds", "iwae_samples"):
        if (number := getattr(config, name)) is not None:
            check_at_least(1, **{name: number})
    if config.clip_norm is not None:  # which is how no limit is written
        check_above(0, clip_norm=config.clip_norm)
    if config.ema_decay is not None and not 0 < config.ema_decay < 1:
        raise ValueError(f"ema_decay must lie between 0 and 1, got {config.ema_decay}.")
