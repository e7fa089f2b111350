"""Operation counts are those of the mathematics, and they grow with a method's settings as they should."""

import math

import jax
import jax.numpy as jnp
import pytest

from benchmarks.operations import count
from gpvae_jax import convolution
from gpvae_jax.evaluate import inference_call
from gpvae_jax.methods import METHODS
from tests import cases

X = jnp.asarray(cases.X)


def test_products_are_exact_and_loops_count_as_often_as_they_run() -> None:
    a, b = jnp.ones((3, 4, 5)), jnp.ones((3, 5, 6))
    assert count(jnp.matmul, a, b).products == 2 * 3 * 4 * 5 * 6
    assert count(jnp.matmul, a, b).bytes == 4 * (3 * 4 * 5 + 3 * 5 * 6 + 3 * 4 * 6)
    square = jnp.ones((4, 4))

    def seven(x):
        return jax.lax.scan(lambda c, _: (jnp.tanh(c @ square), None), x, None, length=7)[0]

    assert count(seven, square).products == 7 * 2 * 4**3
    assert count(seven, square).transcendental == 7 * 16
    assert count(lambda x: jax.lax.map(seven, x), jnp.ones((5, 4, 4))).products == 5 * 7 * 2 * 4**3
    assert count(jnp.linalg.cholesky, square).products == pytest.approx(4**3 / 3)


def test_integers_cost_nothing_and_the_longer_branch_counts() -> None:
    assert count(lambda k: jax.random.bits(k, (10,)) + jnp.uint32(1), jax.random.key(0)).operations == 0

    def either(x):
        return jax.lax.cond(x[0, 0] > 0, lambda: x @ x, lambda: x)

    assert count(either, jnp.ones((4, 4))).products == 2 * 4**3


def test_what_no_result_depends_on_is_not_counted() -> None:
    square = jnp.ones((4, 4))

    def unused(x):
        inner = jax.jit(lambda x: (x @ square, jnp.exp(x @ x)))
        return inner(x)[0], jax.lax.scan(lambda c, _: ((c[0] + 1, c[1] @ square), None), (x, x), None, length=9)[0][0]

    assert count(unused, square).products == 2 * 4**3
    assert count(unused, square).transcendental == 0


def test_a_while_is_unknown_unless_its_length_is_given() -> None:
    def doubled(x):
        return jax.lax.while_loop(lambda c: jnp.sum(c) < 1e6, lambda c: c @ x, x)

    x = jnp.ones((4, 4))
    assert math.isnan(count(doubled, x).products)
    assert count(doubled, x, trips=3).products == 3 * 2 * 4**3
    assert math.isnan(count(lambda x: jnp.linalg.eigh(x)[0], x).operations)


def test_the_three_convolutions_are_one_trilinear_form() -> None:
    x, kernel = jnp.ones((2, 8, 8, 3)), jnp.ones((4, 4, 3, 5))
    native = count(lambda x, k: jax.lax.conv_general_dilated(x, k, (2, 2), "SAME", dimension_numbers=LAYOUT), x, kernel)
    assert native.products == 2 * 2 * 4 * 4 * 4 * 4 * 3 * 5
    assert count(lambda x, k: convolution.conv(x, k, 2), x, kernel).products == native.products
    grads = jax.grad(lambda x, k: jnp.sum(jnp.square(convolution.conv(x, k, 2))), argnums=(0, 1))
    assert count(grads, x, kernel).products == 3 * native.products
    stacked = jax.vmap(lambda k: convolution.conv(x, k, 2))
    assert count(stacked, jnp.ones((3, *kernel.shape))).products == 3 * native.products


LAYOUT = ("NHWC", "HWIO", "NHWC")


def test_without_loops_the_compiler_counts_the_same() -> None:
    a, b = jnp.ones((64, 32)), jnp.ones((32, 48))
    compiled = jax.jit(lambda a, b: jnp.exp(a @ b) @ b.T).lower(a, b).compile()
    counted = count(lambda a, b: jnp.exp(a @ b) @ b.T, a, b)
    assert compiled.cost_analysis()["flops"] == pytest.approx(counted.operations, rel=0.02)


def products(name: str, **settings) -> float:
    """Of inference of the small batch."""
    method = cases.build(METHODS[name], settings).method
    params = jax.eval_shape(method.init, jax.random.key(0), X)
    return count(inference_call(method), params, jax.random.key(1), X).products


@pytest.mark.parametrize(
    ("name", "setting"),
    [("recmix", "num_components"), ("mixture", "num_components"), ("savi", "steps"), ("newton", "steps")],
)
def test_inference_grows_linearly(name: str, setting: str) -> None:
    one, two, three, six = (products(name, **{setting: n}) for n in (1, 2, 3, 6))
    assert two - one > 0
    assert three - two == pytest.approx(two - one, rel=1e-9)  # a factorisation is counted in thirds
    assert six - three == pytest.approx(3 * (two - one), rel=1e-9)


def test_components_cost_an_encoder_and_a_step_costs_a_gradient_of_the_decoder() -> None:
    vae, decoder = products("vae"), 2 * cases.BATCH * cases.WIDTH * (cases.LATENT_DIM + math.prod(cases.DATA_SHAPE))
    assert products("mixture", num_components=4) == 4 * vae
    assert products("savi", steps=0) == vae
    # of a draw: the decoder, and back to the latents, not to its parameters
    assert products("savi", steps=3, inner_samples=2) == vae + 3 * 2 * 2 * decoder
