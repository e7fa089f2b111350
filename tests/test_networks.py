"""Networks as pairs of pure functions: shapes, parameters, a user's own modules, and what is refused."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx

from gpvae_jax.methods import vae
from gpvae_jax.networks import (
    ACTIVATIONS,
    conv_decoder,
    conv_encoder,
    from_linen,
    from_nnx,
    linear,
    mlp,
    num_params,
)
from tests.cases import DATA_SHAPE, X, assert_close, paths, small_model


def test_mlp_is_its_matrix_products():
    network = mlp((2, 2), (3, 5), (4, 1), activation="tanh")
    params = jax.tree.map(np.asarray, network.init(jax.random.key(0)))
    x = np.random.default_rng(0).normal(size=(6, 2, 2)).astype(np.float32)
    h = x.reshape(6, 4)
    for layer in ("layer_0", "layer_1"):
        h = np.tanh(h @ params["hidden"][layer]["kernel"] + params["hidden"][layer]["bias"])
    expected = (h @ params["out"]["kernel"] + params["out"]["bias"]).reshape(6, 4, 1)
    np.testing.assert_allclose(network.apply(params, jnp.asarray(x)), expected, rtol=1e-5, atol=1e-6)
    assert (network.in_shape, network.out_shape) == ((2, 2), (4, 1))
    assert num_params(params) == (4 * 3 + 3) + (3 * 5 + 5) + (5 * 4 + 4)


def test_mlp_without_out_shape_ends_in_features():
    network = mlp(DATA_SHAPE, (7, 5))
    h = network.apply(network.init(jax.random.key(0)), jnp.asarray(X))
    assert network.out_shape == (5,)
    assert (h >= 0).all()  # the last hidden layer, after its relu


def test_mlp_without_hidden_layers_is_affine():
    network = mlp((3,), (), (2, 2))
    params = network.init(jax.random.key(0))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3)), jnp.float32)
    middle = network.apply(params, x.mean(axis=0, keepdims=True))
    np.testing.assert_allclose(middle[0], network.apply(params, x).mean(axis=0), rtol=1e-5, atol=1e-6)
    assert num_params(params) == num_params(linear(3, 4).init(jax.random.key(0))) == 16


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_activations_reach_the_network(name):
    network = mlp((1,), (4,), activation=name)
    params = network.init(jax.random.key(0))
    x = jnp.array([[-2.0], [1.5]])
    affine = x @ params["hidden"]["layer_0"]["kernel"] + params["hidden"]["layer_0"]["bias"][None]
    np.testing.assert_allclose(network.apply(params, x), ACTIVATIONS[name](affine), rtol=1e-6)


@pytest.mark.parametrize("make", [mlp, from_nnx], ids=["mlp", "own"])
def test_parameters_are_plain_nested_dicts_and_follow_the_key(make):
    network = mlp((3,), (4,), (2,)) if make is mlp else own_nnx()

    def plain(tree) -> bool:
        return all(plain(v) for v in tree.values()) if type(tree) is dict else isinstance(tree, jax.Array)

    params = network.init(jax.random.key(0))
    assert plain(params)
    assert_close(network.init(jax.random.key(0)), params, 0.0)
    other = paths(network.init(jax.random.key(1)))
    assert all((other[path] != leaf).any() for path, leaf in paths(params).items() if path.endswith("kernel"))


# ---- convolutions


@pytest.mark.parametrize(
    ("image_shape", "layers"),
    [((28, 28, 1), 3), ((32, 32, 3), 3), ((64, 64, 3), 4), ((17, 23, 2), 3), ((29, 45, 1), 4), ((16, 16, 1), 3)],
)
def test_convolution_shapes(image_shape, layers):
    encoder = conv_encoder(image_shape, width=2, features=5)
    decoder = conv_decoder(3, image_shape, width=2, features=5)
    assert (encoder.in_shape, encoder.out_shape) == (image_shape, (5,))
    assert (decoder.in_shape, decoder.out_shape) == ((3,), image_shape)
    for network in (encoder, decoder):
        kernels = jax.eval_shape(network.init, jax.random.key(0))["conv"]
        assert len(kernels) == layers
        widths = [kernels[f"layer_{i}"]["kernel"].shape[2:] for i in range(layers)]
        doubled = [image_shape[2], *(2 * 2**i for i in range(layers))]
        pairs = list(itertools.pairwise(doubled))
        assert widths == (pairs if network is encoder else [pair[::-1] for pair in pairs[::-1]])


def test_every_pixel_is_read_and_written():
    image_shape = (17, 23, 2)
    encoder = conv_encoder(image_shape, width=2, features=5, activation="tanh")
    decoder = conv_decoder(3, image_shape, width=2, features=5, activation="tanh")
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, *image_shape)), jnp.float32)
    pixels = np.prod(image_shape)
    changed = x[:1] + np.eye(pixels, dtype=np.float32).reshape(pixels, *image_shape)  # one pixel each
    h = jax.jit(encoder.apply)(encoder.init(jax.random.key(0)), jnp.concatenate([x[:1], changed]))
    assert (h[1:] != h[:1]).any(axis=-1).all()
    z = jnp.asarray(rng.normal(size=(2, 3)), jnp.float32)
    written = jax.jit(decoder.apply)(decoder.init(jax.random.key(0)), z)
    assert written.shape == (2, *image_shape)
    assert (written[0] != written[1]).all()


@pytest.mark.parametrize("make", [conv_encoder, lambda shape: conv_decoder(3, shape)], ids=["encoder", "decoder"])
@pytest.mark.parametrize("shape", [(8, 8, 1), (28, 28), (64,)])
def test_convolutions_of_small_or_flat_data_are_refused(make, shape):
    with pytest.raises(ValueError, match=r"at least 16×16, got .*; use the mlp architecture"):
        make(shape)


# ---- a user's own modules


class OwnNNX(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.layers = nnx.Sequential(nnx.Linear(16, 6, rngs=rngs), jnp.tanh, nnx.LayerNorm(6, rngs=rngs))

    def __call__(self, x):
        return self.layers(x.reshape(x.shape[0], -1))


class OwnLinen(linen.Module):
    batch_norm: bool = False
    dropout: bool = False

    @linen.compact
    def __call__(self, x):
        h = jnp.tanh(linen.Dense(6)(x.reshape(x.shape[0], -1)))
        h = linen.BatchNorm(use_running_average=False)(h) if self.batch_norm else h
        return linen.Dropout(0.5, deterministic=False)(h) if self.dropout else h


def own_nnx():
    return from_nnx(OwnNNX, DATA_SHAPE)


def own_linen():
    return from_linen(OwnLinen(), DATA_SHAPE)


@pytest.mark.parametrize("make", [own_nnx, own_linen], ids=["nnx", "linen"])
def test_a_users_own_module_trains_a_vae(make):
    encoder = make()
    assert (encoder.in_shape, encoder.out_shape) == (DATA_SHAPE, (6,))
    method, optimizer = vae(small_model(), encoder), optax.sgd(0.02)
    params = first = method.init(jax.random.key(0), jnp.asarray(X))
    loss = jax.jit(jax.value_and_grad(lambda p, key: method.loss(p, key, jnp.asarray(X))[0]))
    state, before = optimizer.init(params), loss(params, jax.random.key(1))[0]
    for _ in range(5):
        updates, state = optimizer.update(loss(params, jax.random.key(1))[1], state)
        params = optax.apply_updates(params, updates)
    assert loss(params, jax.random.key(1))[0] < before - 0.1
    old = paths(first)
    assert all((leaf != old[path]).any() for path, leaf in paths(params).items())


# ---- what is refused


def test_batch_statistics_and_dropout_are_refused_in_nnx():
    for make in (lambda r: nnx.BatchNorm(4, rngs=r), lambda r: nnx.Dropout(0.5, rngs=r)):
        with pytest.raises(ValueError, match=r"whose only state is nnx\.Param, but this one also holds \['norm'\]"):
            from_nnx(lambda rngs, make=make: _Around(make(rngs)), (4,))


class _Around(nnx.Module):
    def __init__(self, inner):
        self.norm = inner

    def __call__(self, x):
        return self.norm(x)


def test_batch_statistics_and_dropout_are_refused_in_linen():
    with pytest.raises(ValueError, match=r"collection 'params' alone, got \['batch_stats', 'params'\]"):
        from_linen(OwnLinen(batch_norm=True), DATA_SHAPE)
    with pytest.raises(ValueError, match=r"draws no random numbers when called, but this module does; dropout"):
        from_linen(OwnLinen(dropout=True), DATA_SHAPE)


def test_a_module_for_other_shapes_is_refused():
    with pytest.raises(ValueError, match=r"does not take examples of shape \(7,\)"):
        from_nnx(lambda rngs: nnx.Linear(4, 5, rngs=rngs), (7,))


def test_a_module_with_several_outputs_is_refused():
    class Two(nnx.Module):
        def __call__(self, x):
            return x, x

    # the second wording comes from jaxtyping, where the tests run under it
    with pytest.raises(ValueError, match=r"this module returns tuple|checking the return value"):
        from_nnx(lambda rngs: Two(), (4,))


def test_unknown_activation_gives_the_nearest():
    message = r"Unknown activation 'rely'; did you mean 'relu'\? known are: gelu, relu, silu, tanh\."
    makers = (
        lambda: mlp((3,), (4,), activation="rely"),
        lambda: conv_encoder((28, 28, 1), activation="rely"),
        lambda: conv_decoder(3, (28, 28, 1), activation="rely"),
    )
    for make in makers:
        with pytest.raises(ValueError, match=message):
            make()


def test_an_mlp_of_nothing_is_refused():
    with pytest.raises(ValueError, match=r"at least one hidden layer or an out_shape, got neither"):
        mlp((3,), ())


def test_a_module_that_loses_the_batch_axis_is_refused():
    class Flat(nnx.Module):
        def __call__(self, x):
            return x.reshape(-1)

    with pytest.raises(ValueError, match=r"keeps the batch axis.*of one example this module makes \(4,\)"):
        from_nnx(lambda rngs: Flat(), (4,))


def test_a_layer_of_no_units_is_refused():
    with pytest.raises(ValueError, match="units of hidden layer 2 must be at least 1, got 0"):
        mlp((3,), (4, 0))
