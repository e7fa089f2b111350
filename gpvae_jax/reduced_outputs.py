"""The gradient of a Gaussian likelihood in z from a few directions of the decoder's output.

Equations: docs/mathematics.md.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from gpvae_jax.likelihoods import Likelihood
from gpvae_jax.types import LatentModel, Network, Params, ReducedOutputs


def reduced_outputs(decoder: Network, likelihood: Likelihood) -> ReducedOutputs | None:
    """‖x − h(z) W − b‖² in the R leading right singular vectors V of W: ‖(x − b) V − h(z) W V‖² (eq. 3.13, derived).

    What is left out of the squared distance does not depend on z where R is the rank of W, and hardly does where the
    other singular values are small. Cost for K gradients: D R multiplications once, and H R in place of H D in each
    of the 2 K passes. None where the likelihood is not isotropic or the decoder does not end in an affine layer.
    """
    if decoder.last is None or not likelihood.isotropic:
        return None
    features, weights = decoder.last

    def prepare(theta: PyTree, rank: int) -> PyTree:
        weight, bias = (np.asarray(part, np.float64) for part in weights(theta["decoder"]))
        most = min(weight.shape[-2:])
        if not 1 <= rank <= most:
            raise ValueError(f"The decoder's output has from 1 to {most} directions, got {rank}.")
        _, _, directions = np.linalg.svd(weight, full_matrices=False)
        basis = np.swapaxes(directions[..., :rank, :], -1, -2)
        reduced = {"basis": basis, "weights": weight @ basis, "offset": (bias[..., None, :] @ basis)[..., 0, :]}
        dtype = jnp.result_type(*jax.tree.leaves(theta["decoder"]))
        return jax.tree.map(lambda part: jnp.asarray(part, dtype), reduced)

    def observe(reduced: PyTree, x: Float[Array, "B *D"]) -> Float[Array, "B R"]:
        return x.reshape(x.shape[0], -1) @ reduced["basis"] - reduced["offset"][None]

    def log_likelihood(
        theta: PyTree, reduced: PyTree, c: Float[Array, "B R"], z: Float[Array, "S B Z"]
    ) -> Float[Array, "S B"]:
        output = features(theta["decoder"], z.reshape(-1, z.shape[-1])) @ reduced["weights"]
        of_example = jax.vmap(likelihood.log_prob, in_axes=(None, 0, 0))
        return jax.vmap(of_example, in_axes=(None, 0, None))(theta["likelihood"], output.reshape(*z.shape[:-1], -1), c)

    return ReducedOutputs(prepare, observe, log_likelihood)


def with_reduced_outputs(model: LatentModel, params: Params, rank: int) -> Params:
    """The parameters of a trained `newton`, whose steps then take their gradients from `rank` output directions.

    On the host, once for these θ: parameters that are trained on need it anew. Raises ValueError where the model has
    no such form, and on a rank its decoder does not have.
    """
    if model.reduced is None:
        raise ValueError(
            "Gradients from a few output directions need a Gaussian likelihood and a decoder that ends in an affine "
            "layer and says so (networks.mlp does); leave the rank out."
        )
    return Params(params.model, params.inference | {"reduced": model.reduced.prepare(params.model, rank)})
