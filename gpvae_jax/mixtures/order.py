"""How many components a mixture needs: grow one at a time, stop when the held-out gain is within its error.

All of it runs on the host, in numpy float64, on per-example held-out bounds in nats. Equations: docs/mathematics.md.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from jaxtyping import Float

State = TypeVar("State")


class OrderSelection(NamedTuple):
    """The chosen order and why, with the curve it was chosen from; one entry per order tried, ascending."""

    order: int  # number of components chosen
    reason: str  # one sentence
    orders: tuple[int, ...]
    mean: Float[np.ndarray, " K"]  # held-out bound, nats per example
    standard_error: Float[np.ndarray, " K"]  # of `mean`: how far the examples scatter
    gain: Float[np.ndarray, " K1"]  # paired mean gain of each order over the one before, or over its control
    gain_standard_error: Float[np.ndarray, " K1"]  # of `gain`: usually far smaller, the examples being the same


def select_order(
    bounds: Sequence[Float[np.ndarray, " N"]],
    *,
    controls: Sequence[Float[np.ndarray, " N"]] | None = None,
    first: int = 1,
    num_errors: float = 1.0,
) -> OrderSelection:
    """The first order whose successor does not gain more than `num_errors` standard errors.

    bounds: the held-out ELBO of every example at orders first, first + 1, …; the same examples in the same order.
    controls: that of each order but the last, trained on for as long as the order after it, which is what that one is
    held against; without them a gain is also that of longer training.
    With d_i = L_i(m + 1) − L_i(m), the gain is mean d, its standard error std(d) / √N (eq. 5.14, derived). That error
    is the examples' alone: a gain that another seed of the training would not repeat can pass, so average each L_i
    over seeds before, or raise `num_errors`, where seeds differ much. Raises ValueError on fewer than two examples,
    unequal numbers of them, values that are not finite, a number of controls that is not one less than that of bounds,
    or a num_errors that is not a number of at least 0.
    """
    if controls is not None and len(controls) != len(bounds) - 1:
        raise ValueError(f"{len(bounds)} orders have {len(bounds) - 1} controls, got {len(controls)}.")
    table = _table([*bounds, *([] if controls is None else controls)], num_errors)
    table, references = table[: len(bounds)], table[len(bounds) :] if controls is not None else table[:-1]
    steps = table[1:] - references
    gain, gain_error = steps.mean(axis=1), _standard_error(steps)
    failed = np.flatnonzero(~(gain > num_errors * gain_error))
    chosen = int(failed[0]) if failed.size else len(table) - 1
    return OrderSelection(
        order=first + chosen,
        reason=_reason(first, chosen, gain, gain_error, num_errors),
        orders=tuple(range(first, first + len(table))),
        mean=table.mean(axis=1),
        standard_error=_standard_error(table),
        gain=gain,
        gain_standard_error=gain_error,
    )


def grow_until_no_gain(
    train: Callable[[int, State | None], tuple[State, Float[np.ndarray, " N"]]],
    *,
    largest: int,
    control: Callable[[int, State], Float[np.ndarray, " N"]] | None = None,
    first: int = 1,
    num_errors: float = 1.0,
) -> tuple[OrderSelection, State]:
    """Train orders first, first + 1, … up to `largest`, and stop by `select_order`; also returns the chosen state.

    train(order, previous): trains that order, from the state of the order before (None at `first`), and returns its
    own state with the held-out bound of every example. It is called for no order beyond the first that fails.
    control(order, state): the bound of that order, trained on for as long as the next one: what the next is held
    against. Without it longer training counts as a gain of the component.
    """
    if largest < first or first < 1:
        raise ValueError(f"Orders go from first ≥ 1 up to largest, got first {first} and largest {largest}.")
    states: list[State] = []
    bounds: list[np.ndarray] = []
    controls: list[np.ndarray] = []
    for order in range(first, largest + 1):
        if control is not None and states:
            controls.append(np.asarray(control(order - 1, states[-1])))
        state, bound = train(order, states[-1] if states else None)
        states.append(state)
        bounds.append(np.asarray(bound))
        held = None if control is None else controls
        selection = select_order(bounds, controls=held, first=first, num_errors=num_errors)
        if selection.order < order:
            break
    return selection, states[selection.order - first]


def _table(bounds: Iterable[np.ndarray], num_errors: float) -> Float[np.ndarray, "K N"]:
    rows = [np.asarray(row, np.float64) for row in bounds]
    shapes = sorted({row.shape for row in rows})
    if len(shapes) != 1 or len(shapes[0]) != 1 or shapes[0][0] < 2:
        raise ValueError(
            f"Order selection expects, for each order, the bounds of the same two or more examples, got shapes "
            f"{shapes}; evaluate every order on one held-out set."
        )
    table = np.stack(rows)
    if not np.isfinite(table).all():
        raise ValueError("A held-out bound is not finite; look at that order's training before choosing an order.")
    if not 0 <= num_errors < math.inf:
        raise ValueError(f"num_errors must be a finite number of at least 0, got {num_errors}.")
    return table


def _standard_error(table: Float[np.ndarray, "K N"]) -> Float[np.ndarray, " K"]:
    return table.std(axis=1, ddof=1) / math.sqrt(table.shape[1])


def _reason(first: int, chosen: int, gain: np.ndarray, error: np.ndarray, num_errors: float) -> str:
    order = first + chosen
    if chosen == len(gain):
        last = f", the last step by {gain[-1]:.4g} ± {error[-1]:.2g} nats" if len(gain) else ""
        return f"Order {order} is the largest tried{last}; a larger one may gain more."
    return (
        f"Order {order + 1} gains {gain[chosen]:.4g} ± {error[chosen]:.2g} nats over order {order}, "
        f"not more than {num_errors:g} standard error{'' if num_errors == 1 else 's'}."
    )
