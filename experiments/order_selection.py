"""How many components does a mixture need? Grown on real data until the held-out gain is within its error.

    python -m experiments.order_selection
    python -m experiments.order_selection --data omniglot.npz --likelihood gaussian --name order_omniglot_gaussian

A VAE is trained (20 epochs, KL warm-up over the first 5), then grown one component at a time, all components of each
order and the decoder trained for 10 epochs, order 1 too. The ELBO of every validation image (8 draws per component,
averaged over 3 seeds) is compared, image by image, with that of the order before trained on for the same 10 epochs
without the new component: what longer training gains is not the component's doing. The first order whose successor
does not gain more than one standard error is chosen, and not more than --largest are tried. Prints the curve and the
reason. Twenty minutes on one CPU core for Omniglot up to order 5, an hour for MNIST. Writes
experiments/results/NAME.json and NAME.png.
"""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.command_line import command_line
from gpvae_jax import networks, plots, train
from gpvae_jax.build import build_likelihood
from gpvae_jax.commands import prepare_jax, save_figure
from gpvae_jax.data import load
from gpvae_jax.environment import environment
from gpvae_jax.evaluate.importance import importance_bounds
from gpvae_jax.files import write_json
from gpvae_jax.methods.recmix import growth, recmix
from gpvae_jax.methods.vae import vae
from gpvae_jax.mixtures.order import grow_until_no_gain
from gpvae_jax.model import latent_model
from gpvae_jax.observation import observe
from gpvae_jax.progress import bars, say
from gpvae_jax.report import estimate
from gpvae_jax.types import InferenceMethod, Params

RESULTS = Path(__file__).parent / "results"
WARMUP_EPOCHS, DRAWS = 5, 8


@dataclasses.dataclass(frozen=True)
class OrderSelection:
    """The data and the budget."""

    data: str = "mnist"
    likelihood: str = "bernoulli"
    latent_dim: int = 20
    largest: int = 5
    vae_epochs: int = 20
    order_epochs: int = 10
    seeds: int = 3
    refinement: str = "recursive"
    initial_epsilon: float = 0.0
    """At which a component's weight starts; 0: all alike."""
    validation_images: int = 2000
    name: str = "order_mnist_bernoulli"


def main(command: OrderSelection) -> None:
    """Grow, choose, print and draw."""
    prepare_jax()
    dataset = load(command.data)
    likelihood = build_likelihood(command.likelihood, dataset.levels)
    grey = command.likelihood == "bernoulli" and dataset.levels != 2
    dataset, observation = observe(dataset, "dynamic" if grey else "none", seed=0)
    shape, data = dataset.train.shape[1:], train.TrainingData(*map(jnp.asarray, (dataset.train, dataset.validation)))
    encoder = networks.mlp(shape, (400, 400))
    model = latent_model(networks.mlp((command.latent_dim,), (400, 400), shape), likelihood)
    steps_per_epoch, keys = len(dataset.train) // 128, train.seed_keys(jax.random.key(0), command.seeds)
    grown = growth(model, encoder, initial_epsilon=command.initial_epsilon)
    mixture = recmix(model, encoder, refinement=command.refinement, initial_epsilon=command.initial_epsilon)

    def fitted(method: InferenceMethod, params: Params | None, epochs: int, what: str) -> Params:
        """Trained parameters [R, …] of all seeds."""
        warmup = optax.linear_schedule(0.0, 1.0, WARMUP_EPOCHS * steps_per_epoch)
        optimizer = optax.adam(optax.cosine_decay_schedule(2e-3, epochs * steps_per_epoch))
        beta: Any = warmup if params is None else optax.constant_schedule(1.0)
        run = train.trainer(method, model, optimizer, observation, beta=beta, ema_decay=0.999)
        start: dict[str, Any] = {"key": jax.random.key(0), "num_seeds": command.seeds}
        if params is not None:
            start = {"state": jax.jit(jax.vmap(run.start))(params, keys)}
        with bars() as progress:
            task = progress.add_task(what, total=epochs, text="compiling")
            for record in train.fit(run, data, epochs=epochs, **start):
                bound = np.mean(record.metrics["validation_elbo"])
                progress.update(task, completed=record.epoch, text=f"validation {bound:.2f} nats")
        return jax.tree.map(jnp.copy, record.state.best)

    def bounds(params: Params) -> np.ndarray:
        """The ELBO of each validation image, averaged over seeds."""
        images = dataset.validation[: command.validation_images]
        bound = partial(importance_bounds, mixture, model, observe=observation.evaluate, num_samples=(DRAWS,))
        each = [jax.tree.map(lambda leaf, r=r: leaf[r], params) for r in range(command.seeds)]
        return np.mean([bound(one, images, jax.random.key(1))["elbo"] for one in each], axis=0).astype(np.float64)

    def trained(order: int, previous: Params | None) -> tuple[Params, np.ndarray]:
        if previous is None:
            start = jax.vmap(grown.start)(fitted(vae(model, encoder), None, command.vae_epochs, "the VAE"))
        else:
            start = jax.jit(jax.vmap(grown.grow))(previous, train.seed_keys(jax.random.key(order), command.seeds))
        params = fitted(mixture, start, command.order_epochs, f"order {order}")
        bound = bounds(params)
        say(f"order {order}: validation ELBO {bound.mean():.3f} ± {estimate(bound).se:.3f} nats")
        return params, bound

    def without(order: int, params: Params) -> np.ndarray:
        bound = bounds(fitted(mixture, params, command.order_epochs, f"order {order} as long"))
        say(f"order {order}, trained as long: validation ELBO {bound.mean():.3f} nats")
        return bound

    selection, _ = grow_until_no_gain(trained, largest=command.largest, control=without)
    say(selection.reason)
    RESULTS.mkdir(exist_ok=True)
    save_figure(plots.order_curve(selection), RESULTS / f"{command.name}.png")
    found = {"settings": dataclasses.asdict(command) | {"data": dataset.name}, "selection": selection._asdict()}
    write_json(RESULTS / f"{command.name}.json", found | {"environment": environment()})


if __name__ == "__main__":
    command_line(main, OrderSelection, __doc__)
