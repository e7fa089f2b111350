"""The gradient of a Gaussian likelihood in z from a few directions of the decoder's output.

Equations: docs/mathematics.md.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from gpvae_jax.likelihoods import Likelihood
from gpvae_jax.types import LatentModel, Network, Params, ReducedOutputs

DRAWS = 4096  # of z, for how the decoder's features move with it
SAME = 1e-2  # of a gradient, beyond any rounding of it in float32


def reduced_outputs(decoder: Network, likelihood: Likelihood) -> ReducedOutputs | None:
    """‖x − h(z) W − b‖² in R orthonormal directions V of the output: ‖(x − b) V − h(z) W V‖² (eq. 3.13, derived).

    V are the leading right singular vectors of C^½ W, C = E[J Jᵀ] with J = ∂h/∂z at draws z of the prior: the
    directions in which the output moves with z. No others leave out less of the gradient where x − h(z) W − b is white
    noise (eq. 3.14, derived), and what is left out is nothing where R is the rank of W. Cost for K gradients: D R
    multiplications once, and H R in place of H D in each of the 2 K passes. None where the likelihood is not isotropic
    or the decoder does not end in an affine layer.
    """
    if decoder.last is None or not likelihood.isotropic:
        return None
    features, weights = decoder.last

    def prepare(theta: PyTree) -> PyTree:
        weight, bias = (np.asarray(part, np.float64) for part in weights(theta["decoder"]))
        if weight.ndim != 2:
            raise ValueError(
                f"Output directions are those of one seed's parameters, but these have the weights {weight.shape}."
            )
        z, way = jax.random.normal(jax.random.key(0), (2, DRAWS, *decoder.in_shape))
        _, moves = jax.jvp(lambda z: features(theta["decoder"], z), (z,), (way,))  # J u, and E[u uᵀ] = I
        root = np.linalg.qr(np.asarray(moves, np.float64), mode="r")  # C, up to a factor, is rootᵀ root
        basis = np.linalg.svd(root @ weight, full_matrices=False)[2].T
        dtype = jnp.result_type(*jax.tree.leaves(theta["decoder"]))
        reduced = {"basis": basis, "weights": weight @ basis, "offset": bias @ basis}
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
    """The parameters of a trained `newton` with a curvature of the encoder's, whose steps then take their gradients
    from `rank` output directions.

    On the host, once for one seed's parameters; trained on they need it anew. Raises ValueError where the model has no
    such form, in truth or by what it says of itself, and on a rank that its decoder does not have.
    """
    reduced = require_reduced_outputs(model)
    if not isinstance(params.inference, dict) or "base" not in params.inference:
        raise ValueError("Output directions are of newton's steps, but these are not newton's parameters.")
    every = reduced.prepare(params.model)
    most = every["basis"].shape[-1]
    if not 1 <= rank <= most:
        raise ValueError(f"The decoder's output has from 1 to {most} directions, got {rank}.")
    _check_gradient(model, reduced, params.model, every)
    chosen = jax.tree.map(lambda part: part[..., :rank], every)
    return Params(params.model, params.inference | {"reduced": chosen})


def require_reduced_outputs(model: LatentModel) -> ReducedOutputs:
    """Raises ValueError, one sentence, where the model does not have them."""
    if model.reduced is None:
        raise ValueError(
            "Gradients from a few output directions need a Gaussian likelihood and a decoder that ends in an affine "
            "layer and says so (networks.mlp does); leave the rank out."
        )
    return model.reduced


def _check_gradient(model: LatentModel, reduced: ReducedOutputs, theta: PyTree, every: PyTree) -> None:
    """From all directions it is the model's own, whatever the parts that the model was made of say of themselves."""
    dtype = jnp.result_type(*jax.tree.leaves(theta))
    key_x, key_z = jax.random.split(jax.random.key(0))
    x = jax.random.normal(key_x, (8, *model.data_shape), dtype)
    z = jax.random.normal(key_z, (1, 8, model.latent_dim), dtype)
    c = reduced.observe(every, x)
    own = jax.grad(lambda z: jnp.sum(model.log_likelihood(theta, x, z)))(z)
    from_all = jax.grad(lambda z: jnp.sum(reduced.log_likelihood(theta, every, c, z)))(z)
    if not jnp.max(jnp.abs(own - from_all)) <= SAME * jnp.max(jnp.abs(own)):
        raise ValueError(
            "The gradient from all output directions is not that of the model's log-likelihood: a Likelihood that says "
            "isotropic has to be linear in ‖x − output‖², and a Network's apply has to be its last layer's."
        )
