"""numpyro's SVI on the same VAE, with Flax Linen networks, as numpyro's example of a VAE is written."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from flax import linen
from numpyro import distributions
from numpyro.contrib.module import flax_module
from numpyro.infer import SVI, Trace_ELBO

LATENT_DIM = 20
SHAPE = (28, 28, 1)


class Encoder(linen.Module):
    """x[B, 28, 28, 1] -> [B, 2 Z]."""

    architecture: str

    @linen.compact
    def __call__(self, x):
        if self.architecture == "mlp":
            x = x.reshape(len(x), -1)
            for width in (400, 400):
                x = linen.relu(linen.Dense(width)(x))
        else:
            for width in (32, 64, 128):
                x = linen.relu(linen.Conv(width, (4, 4), (2, 2))(x))
            x = linen.relu(linen.Dense(256)(x.reshape(len(x), -1)))
        return linen.Dense(2 * LATENT_DIM)(x)


class Decoder(linen.Module):
    """z[B, Z] -> logits[B, 28, 28, 1]."""

    architecture: str

    @linen.compact
    def __call__(self, z):
        if self.architecture == "mlp":
            for width in (400, 400):
                z = linen.relu(linen.Dense(width)(z))
            return linen.Dense(784)(z).reshape(len(z), *SHAPE)
        z = linen.relu(linen.Dense(256)(z))
        z = linen.relu(linen.Dense(2048)(z)).reshape(len(z), 4, 4, 128)
        z = linen.relu(linen.ConvTranspose(64, (4, 4), (2, 2))(z)[:, :7, :7])
        z = linen.relu(linen.ConvTranspose(32, (4, 4), (2, 2))(z))
        return linen.ConvTranspose(1, (4, 4), (2, 2))(z)


def make_epoch(architecture: str, images: np.ndarray, batch_size: int) -> Callable[[], float]:
    """A function that trains one epoch over images[N, 28, 28, 1] (uint8) and returns its mean loss.

    The MLP's epoch is one scan, as in numpyro's example. Convolutions in a scan are an order slower on a CPU than
    one jitted step after another, so theirs is a loop of such steps.
    """

    def guide(x):
        encoder = flax_module("encoder", Encoder(architecture), input_shape=(1, *SHAPE))
        mean, log_std = jnp.split(encoder(x), 2, axis=1)
        with numpyro.plate("batch", len(x)):
            numpyro.sample("z", distributions.Normal(mean, jnp.exp(log_std)).to_event(1))

    def model(x):
        decoder = flax_module("decoder", Decoder(architecture), input_shape=(1, LATENT_DIM))
        with numpyro.plate("batch", len(x)):
            z = numpyro.sample("z", distributions.Normal(0, 1).expand([LATENT_DIM]).to_event(1))
            numpyro.sample("x", distributions.Bernoulli(logits=decoder(z)).to_event(3), obs=x)

    svi = SVI(model, guide, numpyro.optim.Adam(1e-3), Trace_ELBO())
    data = jnp.asarray(images)

    def step(state, inputs):
        index, key = inputs
        x = jax.random.bernoulli(key, data[index] / 255).astype(jnp.float32)
        return svi.update(state, x)

    def batches(key):
        key_order, key_draws = jax.random.split(key)
        order = jax.random.permutation(key_order, len(data))[: len(data) - len(data) % batch_size]
        index = order.reshape(-1, batch_size)
        return index, jax.random.split(key_draws, len(index))

    whole = jax.jit(lambda state, key: jax.lax.scan(step, state, batches(key)))
    one, shuffled = jax.jit(step), jax.jit(batches)
    state, key = svi.init(jax.random.key(0), jnp.zeros((batch_size, *SHAPE))), jax.random.key(1)

    def epoch() -> float:
        nonlocal state, key
        key, key_epoch = jax.random.split(key)
        if architecture == "mlp":
            state, losses = whole(state, key_epoch)
        else:
            losses = []
            for inputs in zip(*shuffled(key_epoch), strict=True):
                state, loss = one(state, inputs)
                losses.append(loss)
        return float(jnp.mean(jnp.asarray(losses))) / batch_size

    return epoch
