"""From a data set's own images to the ones the library trains on: exact arithmetic, uint8 throughout."""

import io

import numpy as np


def decode(encoded: bytes, channels: int) -> np.ndarray:
    """Decode PNG or JPEG bytes to uint8 [H, W, channels], channels 1 (grey) or 3 (RGB).

    Always by Pillow, converting explicitly: the decoders tensorflow-datasets picks disagree with each other
    (a 1-bit PNG comes out as 0/1 from one, 0/255 from another; a JPEG differs in its last bits).
    """
    from PIL import Image

    with Image.open(io.BytesIO(encoded)) as image:
        return np.asarray(image.convert("L" if channels == 1 else "RGB")).reshape(image.height, image.width, channels)


def area_resize(images: np.ndarray, height: int, width: int) -> np.ndarray:
    """Shrink uint8 images[B, H, W, C] to [B, height, width, C], each new pixel the mean of the area it covers.

    An old pixel counts by the share of it that is covered (unlike Pillow's box filter, which takes it or leaves
    it); halves are rounded up. Every intermediate value is an integer that the floating-point type holds exactly,
    so that the result is the same on every machine.
    """
    batch, old_height, old_width, channels = images.shape
    area = old_height * old_width
    exact = np.float32 if 255 * area < 2**24 else np.float64  # the former is several times faster
    rows, columns = _overlap(old_height, height).astype(exact), _overlap(old_width, width).astype(exact)
    totals = rows @ images.reshape(batch, old_height, old_width * channels).astype(exact)
    totals = columns @ totals.reshape(batch * height, old_width, channels)
    means = (2 * totals.astype(np.int64) + area) // (2 * area)
    return means.astype(np.uint8).reshape(batch, height, width, channels)


def _overlap(size: int, new_size: int) -> np.ndarray:
    """Overlaps [new_size, size] of new with old pixels, in units of 1/new_size old pixels: rows sum to size."""
    new, old = np.arange(new_size)[:, None] * size, np.arange(size)[None, :] * new_size
    return np.clip(np.minimum(new + size, old + new_size) - np.maximum(new, old), 0, None)


def centre_crop(images: np.ndarray, height: int, width: int) -> np.ndarray:
    """The central height x width of images[B, H, W, C]; of an odd surplus, more is dropped below and right."""
    top, left = (images.shape[1] - height) // 2, (images.shape[2] - width) // 2
    return images[:, top : top + height, left : left + width]


def unchanged(images: np.ndarray) -> np.ndarray:
    """The images as they are."""
    return images


def ink_28x28(images: np.ndarray) -> np.ndarray:
    """Omniglot: black ink on white [B, 105, 105, 1] to 28 x 28 with ink high (255) and paper 0."""
    return area_resize(255 - images, 28, 28)


def face_64x64(images: np.ndarray) -> np.ndarray:
    """CelebA: the central 148 x 148 of [B, 218, 178, 3], the usual crop around the face, to 64 x 64."""
    return area_resize(centre_crop(images, 148, 148), 64, 64)
