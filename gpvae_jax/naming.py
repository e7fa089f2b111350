"""Answers to misspelt names."""

import difflib
from collections.abc import Iterable


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """One sentence for an unknown name: the nearest known one, and all of them."""
    known = sorted(known)
    near = difflib.get_close_matches(name.lower().replace("-", "_"), known, n=1)
    hint = f"did you mean '{near[0]}'? " if near else ""
    return f"Unknown {kind} '{name}'; {hint}known are: {', '.join(known)}."
