"""Order selection on curves whose answer is known."""

import numpy as np
import pytest

from gpvae_jax.mixtures.order import grow_until_no_gain, select_order

N = 400


def curve(gains, noise=0.1, seed=0):
    """Per-example bounds: strongly scattered examples, and each order's gain with paired `noise`."""
    rng = np.random.default_rng(seed)
    rows = [rng.normal(-90, 20, N)]
    for gain in gains:
        step = rng.normal(0, noise, N)
        rows.append(rows[-1] + gain + step - step.mean())  # the mean gain exactly
    return rows


def test_stops_at_the_first_gain_within_its_error():
    result = select_order(curve([3.0, 0.5, 0.004, 2.0]))
    assert result.order == 3  # the error of 0.004 is 0.1 / √400 = 0.005; what comes after it does not count
    np.testing.assert_allclose(result.gain, [3.0, 0.5, 0.004, 2.0], atol=1e-9)
    np.testing.assert_allclose(result.gain_standard_error, 0.005, rtol=0.15)
    assert result.orders == (1, 2, 3, 4, 5)
    assert "Order 4 gains 0.004 ±" in result.reason


def test_pairing_finds_a_gain_that_the_examples_scatter_would_hide():
    result = select_order(curve([0.05]))
    assert result.order == 2
    assert result.gain[0] < result.standard_error[0] / 10


def test_a_stricter_multiple_stops_earlier():
    rows = curve([0.008])  # 1.6 standard errors
    assert select_order(rows).order == 2
    strict = select_order(rows, num_errors=2.0)
    assert strict.order == 1
    assert strict.reason.endswith("not more than 2 standard errors.")


def test_losses_stop_too_and_the_first_order_counts():
    assert select_order(curve([-1.0]), first=3).order == 3


def test_the_largest_order_may_still_gain():
    result = select_order(curve([1.0, 1.0]))
    assert result.order == 3
    assert "largest tried, the last step by 1 ±" in result.reason


def test_identical_orders_are_no_gain():
    rows = curve([])
    result = select_order([rows[0], rows[0]])
    assert result.order == 1
    assert result.gain_standard_error[0] == 0.0


def test_one_order_alone():
    result = select_order(curve([]))
    assert result.order == 1
    assert result.gain.shape == (0,)
    assert result.reason == "Order 1 is the largest tried; a larger one may gain more."


def test_an_uninformative_component_is_usually_refused():
    """A true gain of zero passes one standard error with probability 0.16."""
    passed = 0
    for seed in range(300):
        rng = np.random.default_rng(seed)
        first = rng.normal(0, 20, N)
        passed += select_order([first, first + rng.normal(0, 1, N)]).order == 2
    assert abs(passed / 300 - 0.159) < 5 * np.sqrt(0.159 * 0.841 / 300)


def test_growing_trains_no_further_than_needed():
    rows, calls = curve([2.0, 0.0, 5.0]), []

    def train(order, previous):
        calls.append((order, previous))
        return f"state {order}", rows[order - 1]

    selection, state = grow_until_no_gain(train, largest=4)
    assert (selection.order, state) == (2, "state 2")
    assert calls == [(1, None), (2, "state 1"), (3, "state 2")]


def test_growing_up_to_the_limit():
    rows = curve([1.0, 1.0])
    selection, state = grow_until_no_gain(lambda order, _: (order, rows[order - 1]), largest=2)
    assert (selection.order, state) == (2, 2)


def test_longer_training_is_no_gain_of_a_component():
    """Each order is a nat above the one before, of which the second component's is 0.4 and the third's nothing."""
    rows = curve([1.0, 1.0, 1.0])
    controls = {1: rows[1] - 0.4, 2: rows[2]}
    selection, state = grow_until_no_gain(
        lambda order, _: (order, rows[order - 1]), largest=4, control=lambda order, _: controls[order]
    )
    assert (selection.order, state) == (2, 2)
    np.testing.assert_allclose(selection.gain, [0.4, 0.0], atol=1e-9)
    np.testing.assert_allclose(np.diff(selection.mean), 1.0)
    of_arrays = select_order(np.stack(rows[:3]), controls=np.stack([controls[1], controls[2]]))
    np.testing.assert_allclose(of_arrays.gain, selection.gain)


@pytest.mark.parametrize(
    ("rows", "settings", "message"),
    [
        ([np.zeros(5), np.zeros(5)], {"controls": []}, "2 orders have 1 controls, got 0"),
        ([np.zeros(5), np.zeros(5)], {"controls": [np.zeros(4)]}, "same two or more examples"),
        ([np.zeros(5), np.zeros(4)], {}, "same two or more examples"),
        ([np.zeros(1), np.zeros(1)], {}, "same two or more examples"),
        ([], {}, "same two or more examples"),
        ([np.zeros(5), np.full(5, np.nan)], {}, "not finite"),
        ([np.zeros(5), np.zeros(5)], {"num_errors": -1.0}, "num_errors"),
    ],
)
def test_bad_input_is_refused(rows, settings, message):
    with pytest.raises(ValueError, match=message):
        select_order(rows, **settings)


def test_impossible_limits_are_refused():
    with pytest.raises(ValueError, match="up to largest"):
        grow_until_no_gain(lambda order, _: (order, np.zeros(3)), largest=1, first=2)
