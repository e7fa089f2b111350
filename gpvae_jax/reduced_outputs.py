"""The gradient of a Gaussian likelihood in z from a few directions of the decoder's output.

Equations: docs/mathematics.md.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from gpvae_jax.likelihoods import Likelihood
from gpvae_jax.types import HiddenLayers, LatentModel, Network, Params, ReducedOutputs

DRAWS = 4096  # of z, for how the decoder's features move with it
SAME = 1e-2  # of a gradient, beyond any rounding of it in float32
SMALLEST = 1e-7  # a direction's weight, of the greatest, below which it is not there


def reduced_outputs(decoder: Network, likelihood: Likelihood) -> ReducedOutputs | None:
    """‖x − h(z) W − b‖² in R orthonormal directions V of the output: ‖(x − b) V − h(z) W V‖² (eq. 3.13, derived).

    V are the leading right singular vectors of C^½ W, C = E[J Jᵀ] with J = ∂h/∂z at draws z of the prior: the
    directions in which the output moves with z. No others leave out less of the gradient where x − h(z) W − b is white
    noise (eq. 3.14, derived), and what is left out is nothing where R is the rank of W. Cost for K gradients: D R
    multiplications once, and H R in place of H D in each of the 2 K passes. Where h comes of hidden layers that say so
    they have directions as well (eq. 3.16, derived): 2 H Q in place of H² for Q of them. None where the likelihood is
    not isotropic or the decoder does not end in an affine layer.
    """
    if decoder.last is None or not likelihood.isotropic:
        return None
    features, weights, hidden = decoder.last

    def prepare(theta: PyTree) -> PyTree:
        weight, bias = (np.asarray(part, np.float64) for part in weights(theta["decoder"]))
        if weight.ndim != 2:
            raise ValueError(
                f"Output directions are those of one seed's parameters, but these have the weights {weight.shape}."
            )
        z, way = jax.random.normal(jax.random.key(0), (2, DRAWS, *decoder.in_shape))
        _, moves = jax.jvp(lambda z: features(theta["decoder"], z), (z,), (way,))  # J u, and E[u uᵀ] = I
        basis = np.linalg.svd(_root(moves) @ weight, full_matrices=False)[2].T
        reduced = {"basis": basis, "weights": weight @ basis, "offset": bias @ basis}
        if hidden is not None:
            noise = jax.random.normal(jax.random.key(1), (DRAWS, weight.shape[1]))
            reduced["hidden"] = _hidden_directions(hidden, theta["decoder"], z, noise @ weight.T)
        dtype = jnp.result_type(*jax.tree.leaves(theta["decoder"]))
        return jax.tree.map(lambda part: jnp.asarray(part, dtype), reduced)

    def observe(reduced: PyTree, x: Float[Array, "B *D"]) -> Float[Array, "B R"]:
        return x.reshape(x.shape[0], -1) @ reduced["basis"] - reduced["offset"][None]

    def log_likelihood(
        theta: PyTree, reduced: PyTree, c: Float[Array, "B R"], z: Float[Array, "S B Z"]
    ) -> Float[Array, "S B"]:
        flat = z.reshape(-1, z.shape[-1])
        if hidden is not None and "hidden" in reduced:
            h = _narrow_features(hidden, theta["decoder"], reduced["hidden"], flat)
        else:
            h = features(theta["decoder"], flat)
        output = h @ reduced["weights"]
        of_example = jax.vmap(likelihood.log_prob, in_axes=(None, 0, 0))
        return jax.vmap(of_example, in_axes=(None, 0, None))(theta["likelihood"], output.reshape(*z.shape[:-1], -1), c)

    return ReducedOutputs(prepare, observe, log_likelihood)


def _hidden_directions(hidden: HiddenLayers, params: PyTree, z: Array, noise: Array) -> list[dict[str, np.ndarray]]:
    """Of every hidden layer but the first, A, B and m with h W ≈ (h − m) A Bᵀ + m W (eq. 3.16, derived).

    noise: of the features, the gradients at the output being white noise.
    """
    layers = hidden.weights(params)

    def features(shifts: list[Array]) -> tuple[Array, list[Array]]:
        h, inputs = z, []
        for (weight, bias), shift in zip(layers, shifts, strict=True):
            inputs.append(h)
            h = hidden.activation(h @ weight + bias[None] + shift)
        return h, inputs

    _, backward, inputs = jax.vjp(features, [jnp.zeros((len(z), len(bias))) for _, bias in layers], has_aux=True)
    found = []
    for h, (weight, bias), gradient in list(zip(inputs, layers, *backward(noise), strict=True))[1:]:
        h, weight = np.asarray(h, np.float64), np.asarray(weight, np.float64)
        mean = np.mean(h, axis=0)
        moved, felt = _root(h - mean), weight @ _root(gradient).T
        left, size, right = np.linalg.svd(moved @ felt, full_matrices=False)
        inverse = np.where(size > SMALLEST * size[0], 1 / np.maximum(size, np.finfo(size.dtype).tiny), 0)
        into, out = felt @ right.T, (moved @ weight).T @ left * inverse
        found.append({"into": into, "center": mean @ into, "out": out, "bias": mean @ weight + bias})
    return found


def _narrow_features(hidden: HiddenLayers, params: PyTree, layers: list[PyTree], z: Array) -> Float[Array, "N H"]:
    weight, bias = hidden.weights(params)[0]
    h = hidden.activation(z @ weight + bias[None])
    for layer in layers:
        h = hidden.activation((h @ layer["into"] - layer["center"][None]) @ layer["out"].T + layer["bias"][None])
    return h


def _root(rows: Array) -> np.ndarray:
    """R with RᵀR = Σ_n r_n r_nᵀ."""
    return np.asarray(np.linalg.qr(np.asarray(rows, np.float64), mode="r"))


def with_reduced_outputs(model: LatentModel, params: Params, rank: int, hidden_rank: int | None = None) -> Params:
    """The parameters of a trained `newton` with a curvature of the encoder's, whose steps then take their gradients
    from `rank` output directions, and where it is given from `hidden_rank` directions of every hidden layer.

    On the host, once for one seed's parameters; trained on they need it anew. Raises ValueError where the model has no
    such form, in truth or by what it says of itself, and on a rank that its decoder does not have.
    """
    reduced = require_reduced_outputs(model)
    if not isinstance(params.inference, dict) or "base" not in params.inference:
        raise ValueError("Output directions are of newton's steps, but these are not newton's parameters.")
    every = reduced.prepare(params.model)
    hidden = every.pop("hidden", [])
    _check_gradient(model, reduced, params.model, every)
    chosen: PyTree = _first(every, rank, "The decoder's output")
    if hidden_rank is not None:
        if not hidden:
            raise ValueError(
                "Hidden directions are of a decoder with two hidden layers or more that says so (networks.mlp does); "
                "leave the hidden rank out."
            )
        _check_gradient(model, reduced, params.model, every | {"hidden": hidden})
        names = [f"Hidden layer {number}" for number in range(2, 2 + len(hidden))]
        chosen["hidden"] = [_first(layer, hidden_rank, name) for layer, name in zip(hidden, names, strict=True)]
    return Params(params.model, params.inference | {"reduced": chosen})


def _first(parts: dict[str, Array], rank: int, name: str) -> dict[str, Array]:
    """Its first directions, which are the last axes of all but the bias of a whole layer."""
    most = min(part.shape[-1] for key, part in parts.items() if key != "bias")
    if not 1 <= rank <= most:
        raise ValueError(f"{name} has from 1 to {most} directions, got {rank}.")
    return {key: part if key == "bias" else part[..., :rank] for key, part in parts.items()}


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
            "The gradient from all directions is not that of the model's log-likelihood: a Likelihood that says "
            "isotropic has to be linear in ‖x − output‖², and a Network's apply has to be its last layer's, and its "
            "features those of its hidden layers."
        )
