"""Factors of many small matrices against numpy in float64, and that no call of LAPACK may wait for a thread."""

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from gpvae_jax.gaussians.cholesky import WORK, cholesky_and_inverse, inverse_of_lower
from gpvae_jax.methods import gpvae, newton, vlae
from gpvae_jax.methods.gpvae import as_gaussian
from tests.cases import DATA_SHAPE, small_encoder, small_model

KEY = jax.random.key(0)


def matrices(count: int, size: int) -> np.ndarray:
    rows = np.random.default_rng(size).standard_normal((count, size, size + 3))
    return rows @ rows.swapaxes(-1, -2) / size + 1e-3 * np.eye(size)


@pytest.mark.parametrize(("count", "size"), [(3, 1), (5, 4), (450, 10), (60, 20), (7, 60)])  # the last three in pieces
def test_factors_and_inverses_are_those_of_numpy(count: int, size: int) -> None:
    a = matrices(count, size)
    lower = np.linalg.cholesky(a)
    with jax.enable_x64(True):
        found, inverse = jax.jit(cholesky_and_inverse)(jnp.asarray(a))
        np.testing.assert_allclose(found, lower, rtol=1e-10, atol=1e-12)
        for of_lower in (inverse, jax.jit(inverse_of_lower)(jnp.asarray(lower))):
            np.testing.assert_allclose(of_lower @ lower, np.broadcast_to(np.eye(size), a.shape), atol=1e-10)


def test_mapped_over_other_axes_they_are_the_same() -> None:
    a = jnp.asarray(matrices(420, 9), jnp.float32).reshape(2, 30, 7, 9, 9)
    for function in (lambda m: cholesky_and_inverse(m)[1], inverse_of_lower):
        mapped = jax.vmap(jax.vmap(function), in_axes=1, out_axes=1)(a)
        np.testing.assert_allclose(mapped.reshape(-1, 9, 9), function(a.reshape(-1, 9, 9)), rtol=1e-5, atol=1e-5)


def test_derivatives_are_those_of_finite_differences() -> None:
    def of_matrix(a: Any) -> Any:
        lower, inverse = cholesky_and_inverse(a)
        return jnp.sum(jnp.sin(lower)), jnp.sum(jnp.sin(inverse))

    with jax.enable_x64(True):
        a = jnp.asarray(matrices(2, 4))
        check_grads(of_matrix, (a,), order=2, modes=("fwd", "rev"), rtol=1e-5)
        check_grads(lambda m: jnp.sum(jnp.sin(inverse_of_lower(m))), (jnp.linalg.cholesky(a),), order=2, rtol=1e-5)


def test_a_matrix_that_is_not_positive_definite_is_nan() -> None:
    lower, inverse = cholesky_and_inverse(jnp.asarray([[[1.0, 2.0], [2.0, 1.0]]]))
    assert np.isnan(lower).any()
    assert np.isnan(inverse).any()


def lapack_work(function: Callable[..., Any], *arguments: Any) -> list[float]:
    """Of every call of LAPACK in a program, matrices times the cube of their size."""
    shapes = re.findall(r"@lapack_\w+\(.*: \(tensor<([\dx]+)xf\d+>", jax.jit(function).lower(*arguments).as_text())
    dims = [[int(d) for d in shape.split("x")] for shape in shapes]
    return [np.prod(d[:-2]) * d[-1] ** 3.0 for d in dims]


@pytest.mark.parametrize(
    "make",
    [
        newton,
        lambda m, e: newton(m, e, curvature="gauss_newton", inner_samples=2, halvings=1),
        lambda m, e: newton(m, e, base=as_gaussian(gpvae(m, e, num_data=8)), steps=2),
        lambda m, e: gpvae(m, e, num_data=8, weight_posterior="low_rank", rank=9),
        lambda m, e: vlae(m, e, steps=1),
    ],
    ids=["newton", "gauss_newton", "newton on gpvae", "low-rank weights", "vlae"],
)
def test_no_call_of_lapack_is_worth_a_second_thread(make: Callable[..., Any]) -> None:
    """Two that are, and that run at once, wait for ever for the threads they hold (jaxlib 0.10.0 to 0.11.0)."""
    method = make(small_model(), small_encoder())
    x = jnp.zeros((600, *DATA_SHAPE))  # with 100 seeds, 60,000 matrices of 3×3 or more
    params = jax.eval_shape(jax.vmap(lambda key: method.init(key, x[:2])), jax.random.split(KEY, 100))
    step = jax.vmap(jax.grad(lambda p: method.loss(p, KEY, x)[0]))
    work = lapack_work(step, params)
    assert work
    assert max(work) <= WORK


def test_the_count_of_work_sees_a_whole_batch() -> None:
    a = jnp.zeros((2, 200, 10, 10))
    assert max(lapack_work(jnp.linalg.cholesky, a)) == 400 * 10**3
    assert max(lapack_work(jax.vmap(lambda m: cholesky_and_inverse(m)[0]), a)) == 200 * 10**3
