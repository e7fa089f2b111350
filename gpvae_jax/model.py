"""The generative model p_θ(x, z) = N(z; 0, I) p_θ(x|z) (eq. 1.1) that every inference method shares.

Equations: docs/mathematics.md.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from gpvae_jax.likelihoods import Likelihood
from gpvae_jax.posteriors import standard_normal_prior
from gpvae_jax.reduced_outputs import reduced_outputs
from gpvae_jax.types import LatentModel, Network


def latent_model(decoder: Network, likelihood: Likelihood, data_shape: tuple[int, ...] | None = None) -> LatentModel:
    """A decoder z[Z] -> output[*O] and a likelihood make a generative model; θ = {"decoder": …, "likelihood": …}.

    data_shape: D, for a likelihood with several outputs per pixel; None is the decoder's own shape O. Raises
    ValueError where the decoder's input is not a vector of latents.
    """
    if len(decoder.in_shape) != 1:
        raise ValueError(f"A decoder takes a vector of latents [Z], but this one takes {decoder.in_shape}.")
    data_shape = decoder.out_shape if data_shape is None else data_shape

    def init(key: PRNGKeyArray, x: Float[Array, "N *D"]) -> PyTree:
        theta = {"decoder": decoder.init(key), "likelihood": likelihood.init(x)}
        one_z = jax.ShapeDtypeStruct((1, *decoder.in_shape), jnp.result_type(float))
        made = jax.eval_shape(mean, theta, one_z).shape[1:]
        if not x.shape[1:] == data_shape == made:
            raise ValueError(
                f"The decoder makes examples of shape {made}, but the data have shape {x.shape[1:]}; build it with the "
                "data's shape, and tell latent_model the data_shape where its outputs have another."
            )
        return theta

    def log_likelihood(theta: PyTree, x: Float[Array, "B *D"], z: Float[Array, "S B Z"]) -> Float[Array, "S B"]:
        # one decoder call on S·B rows, whatever the split between samples and batch
        output = decoder.apply(theta["decoder"], z.reshape(-1, z.shape[-1]))
        output = output.reshape(*z.shape[:-1], *decoder.out_shape)

        def of_example(output: Float[Array, "*O"], x: Float[Array, "*D"]) -> Float[Array, ""]:
            return likelihood.log_prob(theta["likelihood"], output, x)

        return jax.vmap(jax.vmap(of_example), in_axes=(0, None))(output, x)

    def mean(theta: PyTree, z: Float[Array, "B Z"]) -> Float[Array, "B *D"]:
        return likelihood.mean(theta["likelihood"], decoder.apply(theta["decoder"], z))

    def sample(theta: PyTree, key: PRNGKeyArray, num_samples: int) -> tuple[Float[Array, "n Z"], Float[Array, "n *D"]]:
        key_z, key_x = jax.random.split(key)
        dtype = jnp.result_type(*jax.tree.leaves(theta["decoder"]))
        z = jax.random.normal(key_z, (num_samples, *decoder.in_shape), dtype)
        output = decoder.apply(theta["decoder"], z)
        draw = jax.vmap(likelihood.sample, in_axes=(None, 0, 0))
        return z, draw(theta["likelihood"], jax.random.split(key_x, num_samples), output)

    return LatentModel(
        init,
        standard_normal_prior,
        log_likelihood,
        sample,
        mean,
        data_shape=data_shape,
        latent_dim=decoder.in_shape[0],
        reduced=reduced_outputs(decoder, likelihood) if data_shape == decoder.out_shape else None,
        check=likelihood.check,
    )
