"""Numbers that a user gives, each with one sentence where it cannot be: what was expected and what came."""

import math


def check_at_least(least: float, **numbers: float) -> None:
    """Raise ValueError unless every number, given by its name, is finite and at least so large."""
    for name, number in numbers.items():
        if not (number >= least and math.isfinite(number)):
            raise ValueError(f"{name} must be {_finite(number)}at least {least}, got {number}.")


def check_above(bound: float, **numbers: float) -> None:
    """Raise ValueError unless every number, given by its name, is finite and above the bound."""
    for name, number in numbers.items():
        if not (number > bound and math.isfinite(number)):
            raise ValueError(f"{name} must be {_finite(number)}above {bound}, got {number}.")


def check_finite(**numbers: float) -> None:
    """Raise ValueError unless every number, given by its name, is finite."""
    for name, number in numbers.items():
        if not math.isfinite(number):
            raise ValueError(f"{name} must be finite, got {number}.")


def check_limit(**numbers: float) -> None:
    """Raise ValueError unless every number, given by its name, is above 0; an infinite one is no limit."""
    for name, number in numbers.items():
        if not number > 0:
            raise ValueError(f"{name} must be above 0, or inf for no limit, got {number}.")


def check_seed(**seeds: int) -> None:
    """Raise ValueError unless every seed, given by its name, fits 32 bits: JAX's keys are made of no more."""
    for name, seed in seeds.items():
        if not 0 <= seed < 2**32:
            raise ValueError(f"{name} must be from 0 to {2**32 - 1}, got {seed}.")


def _finite(number: float) -> str:
    return "" if math.isfinite(number) else "finite and "
