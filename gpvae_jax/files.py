"""Files written whole or not at all, and JSON that every reader takes."""

import io
import json
import math
import os
import uuid
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import jax
import numpy as np

# what numpy raises on a damaged .npz or .npy file
DAMAGED = (ValueError, OSError, EOFError, KeyError, NotImplementedError, zipfile.BadZipFile, zlib.error)


def plain(values: Any) -> Any:
    """JSON-ready: arrays to lists, and what is not finite to null, for which JSON has no number."""
    if isinstance(values, dict):
        return {name: plain(value) for name, value in values.items()}
    if isinstance(values, list | tuple):
        return [plain(value) for value in values]
    if isinstance(values, np.ndarray | np.generic | jax.Array):
        return plain(np.asarray(values).tolist())
    if isinstance(values, float) and not math.isfinite(values):
        return None
    return values


def read_json(path: Path) -> Any:
    """What a JSON file holds. Raises ValueError, one sentence, where it is damaged."""
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is damaged, {error}; remove it and make it anew.") from error


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """What an .npz file holds. Raises ValueError, one sentence, where it is damaged."""
    try:
        with np.load(path) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (FileNotFoundError, PermissionError):
        raise
    except DAMAGED as error:
        raise ValueError(f"{path} is damaged, {error}; remove it and make it anew.") from error


def write_json(path: Path, values: Any, indent: int | None = 2) -> None:
    """Write a JSON file atomically; without an indent on one line."""
    write_text(path, json.dumps(plain(values), indent=indent) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    write_bytes(path, text.encode())


def write_npz(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write arrays as .npz atomically."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    write_bytes(path, buffer.getvalue())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically."""
    write_with(path, lambda file: file.write(content))


def write_with(path: Path, write_to: Callable[[BinaryIO], Any]) -> None:
    """Have a file written atomically: a reader finds the old or the new one, never a part."""
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder, and a file is to be written there; give the file's name.")
    draft = path.with_name(f".{path.name}-{uuid.uuid4().hex}")  # in the same folder, so that renaming is atomic
    try:
        with draft.open("xb") as file:
            write_to(file)
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
