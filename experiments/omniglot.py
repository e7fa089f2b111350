"""Omniglot as the GPVAE study takes it, in one file that every command here reads: omniglot.npz.

    python -m experiments.omniglot FOLDER

FOLDER holds the data set's own images_background.zip and images_evaluation.zip (Lake et al. 2015). Images are inverted,
so that ink is high, and averaged down to 28×28 (Pillow's box filter); they are taken in the order of the characters'
numbers and shuffled, seed 0. The background alphabets make 17,280 images to train and 2,000 to validate, the evaluation
alphabets, which no training image shows, 13,180 to test. With --held-out 6 the test images are those of six of the
background alphabets instead, drawn with seed 0: to choose by them what is good for new alphabets, the evaluation ones
unseen. A minute on one core. `omniglot` by name has the same pictures from TensorFlow Datasets, averaged exactly and
otherwise split.
"""

import dataclasses
import io
import zipfile
from pathlib import Path, PurePosixPath

import numpy as np
import tyro
from PIL import Image

from experiments.command_line import command_line
from gpvae_jax.files import write_npz

ARCHIVES = {"background": 19_280, "evaluation": 13_180}  # images in each
VALIDATION = 2_000
VALIDATION_OF_FEWER, BATCH = 1_000, 128  # where alphabets are held out: at least so many, whole batches to train
SIZE = (28, 28)


@dataclasses.dataclass(frozen=True)
class Omniglot:
    """Where the archives are, and where the file goes."""

    folder: tyro.conf.Positional[Path]
    out: Path = Path("omniglot.npz")
    held_out: int = 0
    """So many of the background alphabets make the test images."""


def main(command: Omniglot) -> None:
    """Read both archives, shuffle, split and write."""
    rng = np.random.default_rng(0)
    (background, alphabets), (evaluation, _) = (
        read(command.folder / f"images_{name}.zip", count) for name, count in ARCHIVES.items()
    )
    validation, test = VALIDATION, evaluation
    if command.held_out:
        every = np.unique(alphabets)
        if not 0 < command.held_out < len(every):
            raise ValueError(f"From 1 to {len(every) - 1} alphabets can be held out, got {command.held_out}.")
        new = np.isin(alphabets, rng.choice(every, command.held_out, replace=False))
        background, test = background[~new], background[new]
        validation = VALIDATION_OF_FEWER + (len(background) - VALIDATION_OF_FEWER) % BATCH
    background, test = (images[rng.permutation(len(images))] for images in (background, test))
    split = {"train": background[:-validation], "validation": background[-validation:], "test": test}
    write_npz(command.out, split)
    print(f"Written: {command.out}, " + ", ".join(f"{len(images):,} {name}" for name, images in split.items()))


def read(archive: Path, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Its images as uint8 [N, 28, 28], by the characters' numbers and then the drawers', and the alphabet of each.

    Raises FileNotFoundError or ValueError, one sentence, where the archive is missing, damaged or not whole.
    """
    if not archive.is_file():
        raise FileNotFoundError(
            f"{archive} is missing: FOLDER must hold {' and '.join(map('images_{}.zip'.format, ARCHIVES))}."
        )
    try:
        with zipfile.ZipFile(archive) as opened:
            names = sorted((n for n in opened.namelist() if n.endswith(".png")), key=lambda n: PurePosixPath(n).name)
            images = [_small(opened.read(name)) for name in names]
    except (zipfile.BadZipFile, OSError) as error:
        raise ValueError(f"{archive} cannot be read ({error}); fetch it again.") from error
    if len(images) != count:
        raise ValueError(f"{archive} holds {len(images):,} images, expected {count:,}; fetch it again.")
    return np.stack(images), np.array([PurePosixPath(name).parts[1] for name in names])


def _small(png: bytes) -> np.ndarray:
    """A 1-bit drawing, paper 1, as grey levels with ink at 255."""
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image.convert("L").point(lambda level: 255 - level).resize(SIZE, Image.Resampling.BOX))


if __name__ == "__main__":
    command_line(main, Omniglot, __doc__)
