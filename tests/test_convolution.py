"""Convolutions against `jax.lax`: values, every kind and order of derivative, stacking, and what each platform runs."""

from collections.abc import Callable
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from gpvae_jax.convolution import conv, conv_transpose

LAYOUT = ("NHWC", "HWIO", "NHWC")


def native(x, kernel, stride):
    return lax.conv_general_dilated(x, kernel, (stride, stride), "SAME", dimension_numbers=LAYOUT)


def native_transpose(x, kernel, stride):
    return lax.conv_transpose(x, kernel, (stride, stride), "SAME", dimension_numbers=LAYOUT)


PAIRS = {"conv": (conv, native), "conv_transpose": (conv_transpose, native_transpose)}


def draw(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.result_type(float))


def assert_close(actual, expected, tolerance: float = 1e-4) -> None:
    chex.assert_trees_all_equal_shapes_and_dtypes(actual, expected)
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, e, rtol=tolerance, atol=tolerance * float(jnp.abs(e).max()))


@pytest.fixture(params=sorted(PAIRS))
def pair(request) -> tuple[Callable, Callable]:
    return PAIRS[request.param]


@pytest.mark.parametrize(("width", "stride"), [(4, 2), (3, 1), (3, 2), (5, 3), (2, 3), (1, 1)])
@pytest.mark.parametrize("size", [(7, 7), (8, 5), (1, 4)])
def test_values_and_gradients_are_those_of_lax(pair, width: int, stride: int, size: tuple[int, int]) -> None:
    ours, reference = pair
    x, kernel = draw(2, *size, 3), draw(width, width, 3, 2, seed=1)

    @partial(jax.jit, static_argnums=0)
    def pulled(function: Callable, x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        out, pull = jax.vjp(partial(function, stride=stride), x, kernel)
        return out, pull(draw(*out.shape, seed=2))

    assert_close(pulled(ours, x, kernel), pulled(reference, x, kernel))


@pytest.fixture
def operands() -> tuple[jax.Array, jax.Array]:
    return draw(2, 7, 7, 2), draw(4, 4, 2, 3, seed=1)


def test_forward_mode(pair, operands) -> None:
    tangents = draw(2, 7, 7, 2, seed=3), draw(4, 4, 2, 3, seed=4)
    results = [jax.jvp(partial(function, stride=2), operands, tangents) for function in pair]
    assert_close(*results)


def test_reverse_over_reverse_and_forward_over_reverse(pair, operands) -> None:
    def penalty(function, x, kernel):  # the squared gradient of a nonlinear loss, as SAVI differentiates it
        gradient = jax.grad(lambda x: jnp.sum(jnp.tanh(function(x, kernel, 2))))(x)
        return jnp.sum(jnp.square(gradient))

    second = [jax.grad(partial(penalty, function), argnums=(0, 1))(*operands) for function in pair]
    assert_close(*second)
    direction = draw(2, 7, 7, 2, seed=5)
    mixed = [
        jax.jvp(lambda x, f=function: jax.grad(partial(penalty, f))(x, operands[1]), (operands[0],), (direction,))
        for function in pair
    ]
    assert_close(*mixed)


@pytest.mark.parametrize("axes", [(0, 0), (None, 0), (0, None)])
def test_stacked_kernels_images_and_both(pair, axes: tuple) -> None:
    x, kernels = draw(3, 2, 6, 6, 2), draw(3, 4, 4, 2, 3, seed=1)
    operands = (x if axes[0] == 0 else x[0], kernels if axes[1] == 0 else kernels[0])

    def values_and_gradients(function):
        stacked = jax.vmap(partial(function, stride=2), axes)
        return stacked(*operands), jax.grad(lambda *both: jnp.sum(jnp.sin(stacked(*both))), (0, 1))(*operands)

    assert_close(*map(values_and_gradients, pair))


def test_nested_stacking(pair) -> None:
    x, kernels = draw(3, 2, 6, 6, 2), draw(2, 4, 4, 2, 3, seed=1)
    nested = [jax.vmap(jax.vmap(partial(f, stride=2), (None, 0)), (0, None))(x, kernels) for f in pair]
    assert_close(*nested)


def test_inside_scan_and_jit(pair, operands) -> None:
    x, kernel = operands

    def total(function, kernel):
        def body(carry, scale):
            return carry + jnp.sum(jnp.tanh(function(scale * x, kernel, 2))), None

        return lax.scan(body, jnp.zeros(()), jnp.arange(3.0))[0]

    assert_close(*(jax.jit(jax.value_and_grad(partial(total, function)))(kernel) for function in pair))


@pytest.mark.parametrize(("width", "stride"), [(4, 2), (3, 1)])
def test_transposed_is_the_adjoint_it_says(width: int, stride: int) -> None:
    with jax.enable_x64(True):
        x, kernel = draw(2, 4, 5, 3), draw(width, width, 3, 2, seed=1)
        grown = conv_transpose(x, kernel, stride)
        u = draw(*grown.shape, seed=2)
        shrunk = conv(u, kernel[::-1, ::-1].swapaxes(2, 3), stride)
        assert grown.dtype == jnp.float64
        np.testing.assert_allclose(jnp.vdot(shrunk, x), jnp.vdot(u, grown), rtol=1e-12)


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_accelerators_get_one_native_convolution(pair, operands, platform: str) -> None:
    from jax import export

    x, kernel = operands
    lowered = export.export(jax.jit(lambda x, k: pair[0](x, k, 2)), platforms=[platform])(x, kernel)
    assert lowered.mlir_module().count("stablehlo.convolution") == 1


@pytest.mark.parametrize(
    ("x", "kernel", "stride", "sentence"),
    [
        ((7, 7, 2), (4, 4, 2, 3), 2, r"expects images .*got the shape \(7, 7, 2\)"),
        ((2, 7, 7, 2), (4, 4, 5, 3), 2, r"images with 2 channels expects a square kernel .*\(4, 4, 5, 3\)"),
        ((2, 7, 7, 2), (4, 3, 2, 3), 2, "square kernel"),
        ((2, 7, 7, 2), (4, 4, 2, 3), 0, "positive integer, got 0"),
    ],
)
def test_wrong_shapes_are_one_sentence(pair, x: tuple, kernel: tuple, stride: int, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        pair[0](jnp.zeros(x), jnp.zeros(kernel), stride)


def test_mixed_types_are_one_sentence(pair) -> None:
    with pytest.raises(ValueError, match="must have one floating type, got float32 images and a bfloat16 kernel"):
        pair[0](jnp.zeros((1, 4, 4, 1)), jnp.zeros((4, 4, 1, 1), jnp.bfloat16), 2)
