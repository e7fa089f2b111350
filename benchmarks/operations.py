"""Floating-point operations of a program, counted on its jaxpr, where the length of every loop is known.

XLA's own count takes the body of a loop once, whatever its length. Here a scan counts its body as often as it runs; the
longer branch of a `cond` counts; a `while` has no length of its own, so either the caller knows how often it runs or
the count is unknown. Matrix products and convolutions are counted exactly, two operations a product (a convolution's
taps on the padding included, as is the custom); everything else as one for each floating-point number it makes.
Integers, and thereby random bits, count nothing. What no result depends on is not counted: every compiler leaves it
out. It is the mathematics that is counted, not how a platform does it.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.interpreters.partial_eval import dce_jaxpr


class Cost(NamedTuple):
    """What a program computes; NaN where a loop's length is not known."""

    products: float = 0.0  # operations in matrix products and convolutions
    others: float = 0.0  # numbers made by everything else, among them the transcendental
    transcendental: float = 0.0  # exp, log, tanh, …, each of them ten to forty operations of the processor
    bytes: float = 0.0  # read and written by the products, all else taken as fused into them

    @property
    def operations(self) -> float:
        """All floating-point operations, a transcendental one counted as one."""
        return self.products + self.others


UNKNOWN = Cost(math.nan, math.nan, math.nan, math.nan)
MOVES = {
    "broadcast_in_dim", "reshape", "transpose", "squeeze", "expand_dims", "slice", "dynamic_slice", "rev", "pad",
    "dynamic_update_slice", "concatenate", "gather", "scatter", "copy", "copy_p", "convert_element_type", "iota",
    "bitcast_convert_type", "select_n", "stop_gradient", "split", "stack", "unstack", "optimization_barrier",
}  # fmt: skip
TRANSCENDENTAL = {
    "exp", "exp2", "expm1", "log", "log1p", "tanh", "logistic", "sin", "cos", "tan", "sinh", "cosh", "asinh", "acosh",
    "atanh", "asin", "acos", "atan", "atan2", "pow", "sqrt", "rsqrt", "cbrt", "erf", "erfc", "erf_inv", "lgamma",
    "digamma",
}  # fmt: skip
UNCOUNTED = {"geqrf", "householder_product", "lu", "eigh", "eig", "svd", "schur", "custom_linear_solve"}  # no rule here


def count(function: Callable[..., Any], *arguments: Any, trips: int | None = None) -> Cost:
    """The cost of `function(*arguments)`; trips: how often each of its `while` loops runs, where the caller knows."""
    return cost_of(jax.make_jaxpr(function)(*arguments).jaxpr, trips)


def cost_of(jaxpr: Any, trips: int | None = None) -> Cost:
    """The cost of a jaxpr; `trips` as for `count`."""
    needed, _ = dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
    return _cost(needed, trips)


def _cost(jaxpr: Any, trips: int | None) -> Cost:
    return _sum(Cost(), *(_equation(equation, trips) for equation in jaxpr.eqns))


def _equation(equation: Any, trips: int | None) -> Cost:
    name, params = equation.primitive.name, equation.params
    if name in PRODUCTS:
        moved = sum(_nbytes(v.aval) for v in (*equation.invars, *equation.outvars))
        return Cost(products=PRODUCTS[name](equation), bytes=moved)
    if name == "scan":
        return _times(params["length"], _cost(params["jaxpr"].jaxpr, trips))
    if name == "while":
        once = _sum(_cost(params["body_jaxpr"].jaxpr, trips), _cost(params["cond_jaxpr"].jaxpr, trips))
        return _times(math.nan if trips is None else trips, once)
    if name == "cond":
        branches = [_cost(branch.jaxpr, trips) for branch in params["branches"]]
        return max(branches, key=lambda cost: (math.isnan(cost.operations), cost.operations))
    if name in UNCOUNTED:
        return UNKNOWN
    inner = list(_inner(params))
    if inner:
        return _sum(*(_cost(jaxpr, trips) for jaxpr in inner))
    made = sum(_floats(v.aval) for v in equation.outvars)
    if name in MOVES or not made:
        return Cost()
    read = max((_floats(v.aval) for v in equation.invars), default=0)
    return Cost(others=max(made, read), transcendental=made if name in TRANSCENDENTAL else 0.0)


def _inner(params: dict[str, Any]) -> Iterator[Any]:
    for value in params.values():
        jaxpr = getattr(value, "jaxpr", value)
        if hasattr(jaxpr, "eqns"):
            yield jaxpr


def _sum(*costs: Cost) -> Cost:
    return Cost(*map(math.fsum, zip(*costs, strict=True)))


def _times(number: float, cost: Cost) -> Cost:
    return Cost(*(number * value for value in cost))


def _floats(aval: Any) -> int:
    return math.prod(aval.shape) if jnp.issubdtype(aval.dtype, jnp.floating) else 0


def _nbytes(aval: Any) -> int:
    return math.prod(aval.shape) * aval.dtype.itemsize


# ---- the products


def _shapes(equation: Any) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    first, second = equation.invars[:2]
    return first.aval.shape, second.aval.shape, equation.outvars[0].aval.shape


def _dot_general(equation: Any) -> float:
    first, _, out = _shapes(equation)
    (contracted, _), _ = equation.params["dimension_numbers"]
    return 2.0 * math.prod(out) * math.prod(first[axis] for axis in contracted)


def _conv_general_dilated(equation: Any) -> float:
    _, kernel, out = _shapes(equation)
    return 2.0 * math.prod(out) * math.prod(kernel) / kernel[equation.params["dimension_numbers"].rhs_spec[0]]


def _conv(equation: Any) -> float:
    """y[S, B, h, w, O] from x and a kernel [S, k, k, I, O]: the first of the three maps of `gpvae_jax.convolution`."""
    _, kernel, out = _shapes(equation)
    return 2.0 * math.prod(out) * math.prod(kernel[1:4])


def _conv_image(equation: Any) -> float:
    """x from y[S, B, h, w, O] and the kernel: the same trilinear form, and so the same count."""
    coarse, kernel, _ = _shapes(equation)
    return 2.0 * math.prod(coarse) * math.prod(kernel[1:4])


def _conv_kernel(equation: Any) -> float:
    """The kernel's gradient from x and y[S, B, h, w, O]: the same again."""
    _, coarse, kernel = _shapes(equation)
    return 2.0 * math.prod(coarse) * math.prod(kernel[1:4])


def _cholesky(equation: Any) -> float:
    shape = equation.invars[0].aval.shape
    return math.prod(shape) * shape[-1] / 3


def _qr(equation: Any) -> float:
    """Householder's method and then its Q, as LAPACK's geqrf and orgqr do."""
    *batch, rows, columns = equation.invars[0].aval.shape
    small, large = sorted((rows, columns))
    return 4.0 * math.prod(batch) * (large * small**2 - small**3 / 3)


def _triangular_solve(equation: Any) -> float:
    matrix, _, out = _shapes(equation)
    return float(math.prod(out) * matrix[-1])


PRODUCTS: dict[str, Callable[[Any], float]] = {
    "dot_general": _dot_general,
    "conv_general_dilated": _conv_general_dilated,
    "conv": _conv,
    "conv_image": _conv_image,
    "conv_kernel": _conv_kernel,
    "cholesky": _cholesky,
    "qr": _qr,
    "triangular_solve": _triangular_solve,
}
