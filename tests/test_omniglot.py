"""Omniglot's file from its archives: ink is high, the order is the characters' numbers', the split is the study's."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments import omniglot


def archive(path: Path, drawings: dict[str, np.ndarray]) -> None:
    with zipfile.ZipFile(path, "w") as opened:
        for name, ink in drawings.items():
            stream = io.BytesIO()
            Image.fromarray(~ink).save(stream, "PNG")  # 1 bit, paper 1
            opened.writestr(name, stream.getvalue())


def drawing(rows: int) -> np.ndarray:
    """Ink in the upper rows of 56×56: each new pixel covers four old ones."""
    ink = np.zeros((56, 56), bool)
    ink[:rows] = True
    return ink


def test_images_come_inverted_averaged_and_in_the_characters_order(tmp_path):
    path = tmp_path / "images_background.zip"
    archive(path, {"b/Greek/character01/0002_01.png": drawing(3), "b/Latin/character07/0001_02.png": drawing(56)})
    images, alphabets = omniglot.read(path, 2)
    assert list(alphabets) == ["Latin", "Greek"]
    assert (images.shape, images.dtype) == ((2, 28, 28), np.uint8)
    assert (images[0] == 255).all()  # Latin's, whose number is the first
    np.testing.assert_array_equal(images[1][:3, 0], [255, 128, 0])  # three rows of ink: one and a half new ones
    with pytest.raises(ValueError, match="holds 2 images, expected 3; fetch it again"):
        omniglot.read(path, 3)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(ValueError, match=r"images_background.zip cannot be read .*; fetch it again"):
        omniglot.read(path, 2)
    with pytest.raises(FileNotFoundError, match=r"must hold images_background.zip and images_evaluation.zip"):
        omniglot.read(tmp_path / "elsewhere.zip", 2)


def test_the_file_is_split_by_alphabets_and_always_alike(tmp_path, monkeypatch):
    monkeypatch.setattr(omniglot, "ARCHIVES", {"background": 5, "evaluation": 3})
    monkeypatch.setattr(omniglot, "VALIDATION", 2)
    for name, offset in (("background", 0), ("evaluation", 10)):
        drawings = {f"{name}/A/character01/{i:04}_01.png": drawing(2 * (offset + i)) for i in range(5 - offset // 5)}
        archive(tmp_path / f"images_{name}.zip", drawings)
    files = [tmp_path / "one.npz", tmp_path / "two.npz"]
    for file in files:
        omniglot.main(omniglot.Omniglot(tmp_path, file))
    one, two = (dict(np.load(file)) for file in files)
    inked = {name: sorted((images[:, :, 0] == 255).sum(axis=1)) for name, images in one.items()}
    assert {name: len(rows) for name, rows in inked.items()} == {"train": 3, "validation": 2, "test": 3}
    assert sorted(inked["train"] + inked["validation"]) == [0, 1, 2, 3, 4]
    assert inked["test"] == [10, 11, 12]
    assert all((one[name] == two[name]).all() for name in one)


def test_alphabets_held_out_are_the_test_images_and_no_others(tmp_path, monkeypatch):
    monkeypatch.setattr(omniglot, "ARCHIVES", {"background": 12, "evaluation": 1})
    monkeypatch.setattr(omniglot, "VALIDATION_OF_FEWER", 2)
    monkeypatch.setattr(omniglot, "BATCH", 4)
    of_alphabet = {name: range(4 * i, 4 * i + 4) for i, name in enumerate("ABC")}
    drawings = {f"b/{name}/c/{i:04}_01.png": drawing(2 * i) for name, rows in of_alphabet.items() for i in rows}
    archive(tmp_path / "images_background.zip", drawings)
    archive(tmp_path / "images_evaluation.zip", {"e/D/c/0001_01.png": drawing(50)})
    omniglot.main(omniglot.Omniglot(tmp_path, tmp_path / "x.npz", held_out=1))
    inked = {
        name: {int(n) for n in (images[:, :, 0] == 255).sum(axis=1)}
        for name, images in np.load(tmp_path / "x.npz").items()
    }
    assert inked["test"] in [set(rows) for rows in of_alphabet.values()]
    assert inked["train"] | inked["validation"] == set(range(12)) - inked["test"]
    assert (len(inked["train"]), len(inked["validation"])) == (4, 4)
    for count in (-1, 3):
        with pytest.raises(ValueError, match=f"From 1 to 2 alphabets can be held out, got {count}"):
            omniglot.main(omniglot.Omniglot(tmp_path, tmp_path / "y.npz", held_out=count))
