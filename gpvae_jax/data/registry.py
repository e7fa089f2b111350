"""The data sets known by name."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from gpvae_jax.data.images import face_64x64, ink_28x28, unchanged


class Spec(NamedTuple):
    """What is known of a data set before it is loaded."""

    description: str
    shape: tuple[int, int, int]  # of one image as loaded: H, W, C
    counts: tuple[int, int, int]  # train, validation, test, as loaded
    levels: int
    own_validation: bool = False  # else validation is cut from train, never from test
    transform: Callable[[np.ndarray], np.ndarray] = unchanged  # stored uint8 [B, h, w, C] -> [B, H, W, C]
    source: str = "tensorflow-datasets"


DATASETS: dict[str, Spec] = {
    "digits": Spec(
        "scikit-learn's 8 x 8 handwritten digits; nothing to download",
        (8, 8, 1), (1_297, 250, 250), 17, source="scikit-learn",
    ),
    "mnist": Spec("handwritten digits", (28, 28, 1), (50_000, 10_000, 10_000), 256),
    "fashion_mnist": Spec("pictures of clothing", (28, 28, 1), (50_000, 10_000, 10_000), 256),
    "binarized_mnist": Spec(
        "Larochelle's fixed binarisation of MNIST",
        (28, 28, 1), (50_000, 10_000, 10_000), 2, own_validation=True,
    ),
    "omniglot": Spec(
        "drawings of 1,623 characters, shrunk by area from 105 x 105, ink high; test characters are new ones",
        (28, 28, 1), (17_352, 1_928, 13_180), 256, transform=ink_28x28,
    ),
    "cifar10": Spec("tiny photographs of ten kinds of object", (32, 32, 3), (40_000, 10_000, 10_000), 256),
    "svhn_cropped": Spec("house numbers from street photographs", (32, 32, 3), (65_931, 7_326, 26_032), 256),
    "celeb_a": Spec(
        "faces of celebrities, central 148 x 148 shrunk by area",
        (64, 64, 3), (162_770, 19_867, 19_962), 256, own_validation=True, transform=face_64x64,
    ),
}  # fmt: skip
