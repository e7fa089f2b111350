"""A method's settings as text: read off its signature, parsed to the types of their defaults."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from gpvae_jax.naming import unknown
from gpvae_jax.types import InferenceMethod


def has_base(factory: Callable[..., InferenceMethod]) -> bool:
    """Whether a method can be built over another one."""
    return "base" in inspect.signature(factory).parameters


def parse_settings(method: str, factory: Callable[..., InferenceMethod], items: Iterable[str]) -> dict[str, Any]:
    """A method's settings from name=value texts. Raises ValueError on a name it does not have or a wrong value."""
    known, settings = method_settings(factory), {}
    for item in items:
        name, equals, text = item.partition("=")
        name = name.replace("-", "_")
        if not equals:
            raise ValueError(f"A method's setting is written name=value, got '{item}'.")
        if name not in known:
            raise ValueError(unknown(f"setting of {method}", name, known))
        settings[name] = _parse(name, text, known[name])
    return settings


def method_settings(factory: Callable[..., InferenceMethod]) -> dict[str, Any]:
    """The settings of a method that can be written as text, with their defaults, read off its signature."""
    parameters = inspect.signature(factory).parameters.values()
    return {p.name: p.default for p in parameters if isinstance(p.default, bool | int | float | str)}


def _parse(name: str, text: str, default: Any) -> Any:
    """The text of a setting as the type of its default."""
    if isinstance(default, bool):
        values: Mapping[str, bool] = {"true": True, "false": False}
        if text.lower() in values:
            return values[text.lower()]
        raise ValueError(f"Setting {name} must be true or false, got '{text}'.")
    try:
        return type(default)(text)
    except ValueError:
        wanted = "a whole number" if isinstance(default, int) else "a number"
        raise ValueError(f"Setting {name} must be {wanted}, got '{text}'.") from None
