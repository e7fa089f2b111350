"""Flax modules behind pure functions: the only file that knows Flax.

An encoder maps x[B, *D] to features h[B, H], and each inference method puts its own heads on them; a decoder maps
z[B, Z] to the likelihood's parameters [B, *D]. A user's own Flax module, NNX or Linen, enters by `from_nnx` or
`from_linen` and is then like any other.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from flax.errors import InvalidRngError
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from gpvae_jax import convolution
from gpvae_jax.checks import check_at_least
from gpvae_jax.naming import unknown
from gpvae_jax.types import HiddenLayers, LastLayer, Network

KERNEL_SIZE, STRIDE = 4, 2  # of every convolution, as in DCGAN


def from_nnx(make: Callable[[nnx.Rngs], nnx.Module], in_shape: Sequence[int]) -> Network:
    """Turn an NNX module, given as a function of its random streams, into a pair of pure functions.

    The module is split once into its structure and a nested dict of its `nnx.Param`s, so calling it costs what a
    hand-written function costs. `in_shape` is one example's shape; modules are called on `[B, *in_shape]`.
    """
    graphdef, _, rest = nnx.split(nnx.eval_shape(lambda: make(nnx.Rngs(0))), nnx.Param, ...)  # type: ignore[misc]
    if jax.tree.leaves(rest):
        raise ValueError(
            f"from_nnx expects a module whose only state is nnx.Param, but this one also holds {sorted(rest)}; "
            "batch statistics and dropout streams have no place in a pure function: leave them out."
        )

    def init(key: PRNGKeyArray) -> PyTree:
        return nnx.to_pure_dict(nnx.state(make(nnx.Rngs(key)), nnx.Param))

    def apply(params: PyTree, x: Float[Array, "B *in"]) -> Float[Array, "B *out"]:
        return nnx.merge(graphdef, params)(x)

    return _with_shapes(init, apply, tuple(in_shape))


def from_linen(module: Any, in_shape: Sequence[int]) -> Network:
    """Turn a `flax.linen` module into a pair of pure functions; it may hold parameters only."""

    def init(key: PRNGKeyArray) -> PyTree:
        variables = module.init(key, jnp.zeros((1, *in_shape)))
        if set(variables) != {"params"}:
            raise ValueError(
                f"from_linen expects a module with the collection 'params' alone, got {sorted(variables)}; "
                "batch statistics have no place in a pure function: leave them out."
            )
        return variables["params"]

    def apply(params: PyTree, x: Float[Array, "B *in"]) -> Float[Array, "B *out"]:
        return module.apply({"params": params}, x)

    return _with_shapes(init, apply, tuple(in_shape))


def _with_shapes(init: Callable, apply: Callable, in_shape: tuple[int, ...]) -> Network:
    example = jax.ShapeDtypeStruct((1, *in_shape), jnp.result_type(float))
    try:
        out = jax.eval_shape(lambda key, x: apply(init(key), x), jax.random.key(0), example)
    except InvalidRngError as error:
        raise ValueError(
            "A network draws no random numbers when called, but this module does; dropout streams have no place "
            "in a pure function: leave them out."
        ) from error
    except TypeError as error:  # what jax raises where shapes do not meet
        raise ValueError(f"The module does not take examples of shape {in_shape}: {error}") from error
    if not isinstance(out, jax.ShapeDtypeStruct):
        raise ValueError(f"A network maps one array to one array, but this module returns {type(out).__name__}.")
    if out.shape[:1] != (1,):
        raise ValueError(
            f"A network keeps the batch axis, x[B, *in] -> [B, *out], but of one example this module makes {out.shape}."
        )
    return Network(init, apply, in_shape, out.shape[1:])


def check_encoder(network: Network, data_shape: tuple[int, ...], name: str = "encoder") -> None:
    """Raise ValueError, one sentence, unless it takes a model's examples and makes a vector of features of each."""
    if len(network.out_shape) != 1:
        raise ValueError(f"The features of an example are a vector [F], but the {name} makes {network.out_shape}.")
    if network.in_shape != data_shape:
        raise ValueError(
            f"The {name} takes examples of shape {network.in_shape}, but the model's have {data_shape}; build it with "
            "the data's shape."
        )


Activation = str | Callable[[Array], Array]  # one of ACTIVATIONS, or a function of one's own
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": jax.nn.relu,
    "tanh": jnp.tanh,
    "gelu": jax.nn.gelu,
    "silu": jax.nn.silu,
}


def linear(in_features: int, out_features: int) -> Network:
    """One affine layer [H] -> [G]: the head that turns features into distribution parameters."""
    return from_nnx(lambda rngs: _linear(in_features, out_features, rngs), (in_features,))


def mlp(
    in_shape: Sequence[int],
    hidden: Sequence[int],
    out_shape: Sequence[int] | None = None,
    *,
    activation: Activation = "relu",
) -> Network:
    """Fully connected network; the input is flattened.

    Without `out_shape` the last hidden layer is the output (an encoder's features h[B, H]); with it an affine
    layer to `out_shape` follows (a decoder). Raises ValueError on an unknown activation or no layer at all.
    """
    if not hidden and out_shape is None:
        raise ValueError("mlp needs at least one hidden layer or an out_shape, got neither.")
    check_at_least(1, **{f"units of hidden layer {i}": units for i, units in enumerate(hidden, start=1)})
    act = _activation(activation)
    network = from_nnx(lambda rngs: _MLP(in_shape, hidden, out_shape, act, rngs), in_shape)
    if out_shape is None:
        return network
    trunk = from_nnx(lambda rngs: _MLP(in_shape, hidden, None, act, rngs), in_shape)

    def features(params: PyTree, x: Float[Array, "B *in"]) -> Float[Array, "B H"]:
        return trunk.apply({"hidden": params["hidden"]} if hidden else {}, x)

    def weights(layer: PyTree) -> tuple[Array, Array]:
        return layer["kernel"], layer["bias"]

    layers = [f"layer_{i}" for i in range(len(hidden))]
    affine = HiddenLayers(lambda params: [weights(params["hidden"][layer]) for layer in layers], act)
    return network._replace(last=LastLayer(features, lambda params: weights(params["out"]), affine))


def conv_encoder(
    image_shape: Sequence[int], *, width: int = 32, features: int = 256, activation: Activation = "relu"
) -> Network:
    """4×4 convolutions of stride 2, channels width·(1, 2, 4, …), then one layer to features h[B, H].

    Three convolutions up to 32×32 and four for 64×64, as in DCGAN; image_shape is (height, width, channels).
    """
    sizes = _conv_sizes(image_shape)
    act = _activation(activation)
    return from_nnx(lambda rngs: _ConvEncoder(sizes, image_shape[2], width, features, act, rngs), image_shape)


def conv_decoder(
    latent_dim: int,
    image_shape: Sequence[int],
    *,
    width: int = 32,
    features: int = 256,
    activation: Activation = "relu",
) -> Network:
    """`conv_encoder` mirrored: two affine layers, then 4×4 transposed convolutions of stride 2 to [B, H, W, C]."""
    sizes = _conv_sizes(image_shape)
    act = _activation(activation)
    return from_nnx(
        lambda rngs: _ConvDecoder(latent_dim, sizes, image_shape[2], width, features, act, rngs),
        (latent_dim,),
    )


def num_params(params: PyTree) -> int:
    """Number of scalars in a parameter tree."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def _activation(name: Activation) -> Callable[[Array], Array]:
    if not isinstance(name, str):
        return name
    if name not in ACTIVATIONS:
        raise ValueError(unknown("activation", name, ACTIVATIONS))
    return ACTIVATIONS[name]


def _conv_sizes(image_shape: Sequence[int]) -> list[tuple[int, int]]:
    """Height and width before and after each stride-2 layer, e.g. 28 -> 14 -> 7 -> 4."""
    if len(image_shape) != 3 or min(image_shape[:2]) < 16:
        raise ValueError(
            f"The convolutional networks expect images [height, width, channels] of at least 16×16, got "
            f"{tuple(image_shape)}; use the mlp architecture for other data."
        )
    layers = 4 if max(image_shape[:2]) > 32 else 3
    sizes = [(image_shape[0], image_shape[1])]
    for _ in range(layers):
        sizes.append((-(-sizes[-1][0] // STRIDE), -(-sizes[-1][1] // STRIDE)))
    return sizes


def _linear(in_features: int, out_features: int, rngs: nnx.Rngs) -> nnx.Linear:
    return nnx.Linear(
        in_features,
        out_features,
        kernel_init=nnx.initializers.glorot_uniform(),
        param_dtype=jnp.result_type(float),
        rngs=rngs,
    )


class _MLP(nnx.Module):
    def __init__(
        self,
        in_shape: Sequence[int],
        hidden: Sequence[int],
        out_shape: Sequence[int] | None,
        activation: Callable[[Array], Array],
        rngs: nnx.Rngs,
    ):
        widths = [math.prod(in_shape), *hidden]
        pairs = enumerate(itertools.pairwise(widths))
        self.hidden = nnx.Dict({f"layer_{i}": _linear(n, m, rngs) for i, (n, m) in pairs})
        self.out = None if out_shape is None else _linear(widths[-1], math.prod(out_shape), rngs)
        self.out_shape = () if out_shape is None else tuple(out_shape)
        self.activation = activation

    def __call__(self, x: Float[Array, "B *in"]) -> Float[Array, "B *out"]:
        h = x.reshape(x.shape[0], -1)
        for i in range(len(self.hidden)):
            h = self.activation(self.hidden[f"layer_{i}"](h))
        return h if self.out is None else self.out(h).reshape(x.shape[0], *self.out_shape)


class _Conv(nnx.Module):
    """Kernel and bias of one 4×4 stride-2 (transposed) convolution."""

    def __init__(self, in_channels: int, out_channels: int, rngs: nnx.Rngs):
        shape, dtype = (KERNEL_SIZE, KERNEL_SIZE, in_channels, out_channels), jnp.result_type(float)
        self.kernel = nnx.Param(nnx.initializers.glorot_uniform()(rngs.params(), shape, dtype))
        self.bias = nnx.Param(jnp.zeros((1, 1, 1, out_channels), dtype))

    def down(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w c"]:
        return convolution.conv(x, self.kernel[...], STRIDE) + self.bias[...]

    def up(self, x: Float[Array, "B h w c"], size: tuple[int, int]) -> Float[Array, "B H W C"]:
        # an odd size such as 7 is the crop of 8, whose last row and column no convolution of 7 -> 4 reads
        grown = convolution.conv_transpose(x, self.kernel[...], STRIDE)
        return grown[:, : size[0], : size[1]] + self.bias[...]


class _ConvEncoder(nnx.Module):
    def __init__(self, sizes, channels: int, width: int, features: int, activation: Callable, rngs: nnx.Rngs):
        widths = [channels, *(width * 2**i for i in range(len(sizes) - 1))]
        pairs = enumerate(itertools.pairwise(widths))
        self.conv = nnx.Dict({f"layer_{i}": _Conv(n, m, rngs) for i, (n, m) in pairs})
        self.out = _linear(math.prod(sizes[-1]) * widths[-1], features, rngs)
        self.activation = activation

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B F"]:
        for i in range(len(self.conv)):
            x = self.activation(self.conv[f"layer_{i}"].down(x))
        return self.activation(self.out(x.reshape(x.shape[0], -1)))


class _ConvDecoder(nnx.Module):
    def __init__(
        self,
        latent_dim: int,
        sizes,
        channels: int,
        width: int,
        features: int,
        activation: Callable,
        rngs: nnx.Rngs,
    ):
        layers = len(sizes) - 1
        widths = [*(width * 2**i for i in reversed(range(layers))), channels]
        pairs = enumerate(itertools.pairwise(widths))
        self.dense = _linear(latent_dim, features, rngs)
        self.seed = _linear(features, math.prod(sizes[-1]) * widths[0], rngs)
        self.conv = nnx.Dict({f"layer_{i}": _Conv(n, m, rngs) for i, (n, m) in pairs})
        self.seed_shape = (*sizes[-1], widths[0])
        self.sizes = tuple(reversed(sizes[:-1]))
        self.activation = activation

    def __call__(self, z: Float[Array, "B Z"]) -> Float[Array, "B H W C"]:
        x = self.activation(self.seed(self.activation(self.dense(z)))).reshape(z.shape[0], *self.seed_shape)
        for i, size in enumerate(self.sizes):
            x = self.conv[f"layer_{i}"].up(x, size)
            x = x if i == len(self.sizes) - 1 else self.activation(x)
        return x
