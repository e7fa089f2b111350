"""Cholesky factors of many small matrices, and inverses of triangular ones.

LAPACK, on a CPU, takes the matrices one by one. jaxlib 0.10.0 to 0.11.0 hands a batch that costs 2e5 operations or more
to the threads that the program itself runs on, and the call waits for them, so that as many such calls at once as there
are threads wait for ever. Here a batch goes in pieces below that, whatever it was mapped over, and derivatives are
products alone. (`eigh` and `qr` are called so as well, but nowhere in the library two of them at once.)
"""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Float

WORK = 200_000  # operations of a call that are not yet worth a second thread
PIECE = 16  # matrices a call where their number is not known: few enough for a single one not to wait
Matrices = Float[Array, "B Z Z"]
Out = TypeVar("Out")


@jax.custom_jvp
def cholesky_and_inverse(matrix: Matrices) -> tuple[Matrices, Matrices]:
    """L and L⁻¹, matrix = L Lᵀ, of symmetric positive definite matrices; NaN for one that is not.

    dL = L Φ(L⁻¹ dA L⁻ᵀ) with Φ `lower_half`, and dL⁻¹ = −Φ(·) L⁻¹ (derived).
    """
    return _cholesky_and_inverse(matrix)


@cholesky_and_inverse.defjvp
def _(
    primals: tuple[Matrices], tangents: tuple[Matrices]
) -> tuple[tuple[Matrices, Matrices], tuple[Matrices, Matrices]]:
    ((matrix,), (tangent,)) = primals, tangents
    lower, inverse = cholesky_and_inverse(matrix)
    symmetric = 0.5 * (tangent + jnp.swapaxes(tangent, -1, -2))
    inner = product(product(inverse, symmetric), jnp.swapaxes(inverse, -1, -2))
    half = lower_half(inner)
    return (lower, inverse), (product(lower, half), -product(half, inverse))


@jax.custom_jvp
def inverse_of_lower(lower: Matrices) -> Matrices:
    """The inverses of lower triangular matrices."""
    return _inverse_of_lower(lower)


@inverse_of_lower.defjvp
def _(primals: tuple[Matrices], tangents: tuple[Matrices]) -> tuple[Matrices, Matrices]:
    ((lower,), (tangent,)) = primals, tangents
    inverse = inverse_of_lower(lower)
    return inverse, -product(product(inverse, jnp.tril(tangent)), inverse)


def lower_half(matrix: Matrices) -> Matrices:
    """The lower triangles, their diagonals halved."""
    return jnp.tril(matrix) - 0.5 * jnp.eye(matrix.shape[-1], dtype=matrix.dtype)[None] * matrix


def product(left: Float[Array, "B P Q"], right: Float[Array, "B Q R"]) -> Float[Array, "B P R"]:
    """The matrices' products, in their own precision on every device."""
    return jnp.matmul(left, right, precision="highest")


def _in_pieces(function: Callable[[Matrices], Out]) -> Callable[[Matrices], Out]:
    """The function of a batch, on a CPU so many matrices at a time that LAPACK stays on the thread that calls it."""

    def by_pieces(matrices: Matrices) -> Out:
        count = max(1, WORK // matrices.shape[-1] ** 3)
        if not isinstance(matrices.shape[0], int):  # an exported program's, which is known only when it is called
            return _of_any_number(matrices, min(count, PIECE))
        if len(matrices) <= count:
            return function(matrices)
        return jax.lax.map(_of_one, matrices, batch_size=count)

    def _of_any_number(matrices: Matrices, count: int) -> Out:
        number, size = matrices.shape[0], matrices.shape[-1]
        pieces = (number + count - 1) // count
        filling = jnp.broadcast_to(jnp.eye(size, dtype=matrices.dtype), (pieces * count - number, size, size))
        filled = jnp.concatenate([matrices, filling]).reshape(pieces, count, size, size)
        out = jax.lax.map(function, filled)
        return jax.tree.map(lambda leaf: leaf.reshape(pieces * count, size, size)[:number], out)

    def _of_one(matrix: Float[Array, "Z Z"]) -> Out:
        return jax.tree.map(lambda out: out[0], function(matrix[None]))

    @jax.custom_batching.custom_vmap
    def of_all(matrices: Matrices) -> Out:
        return jax.lax.platform_dependent(matrices, cpu=by_pieces, default=function)

    @of_all.def_vmap
    def _(size: int, mapped: list[bool], matrices: Float[Array, "V B Z Z"]) -> tuple[Out, bool]:
        out = of_all(matrices.reshape(-1, *matrices.shape[-2:]))
        return jax.tree.map(lambda leaf: leaf.reshape(matrices.shape), out), jax.tree.map(lambda leaf: True, out)

    return of_all


@_in_pieces
def _inverse_of_lower(lower: Matrices) -> Matrices:
    return _solved_for_identity(lower)


@_in_pieces
def _cholesky_and_inverse(matrix: Matrices) -> tuple[Matrices, Matrices]:
    lower = jnp.linalg.cholesky(matrix)
    return lower, _solved_for_identity(lower)


def _solved_for_identity(lower: Matrices) -> Matrices:
    identity = jnp.eye(lower.shape[-1], dtype=lower.dtype)
    return solve_triangular(lower, jnp.broadcast_to(identity, lower.shape), lower=True)
