"""More training images than there are: copies of each, changed at random in ways that leave it an image of its kind."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates
from jaxtyping import Array, Float, PRNGKeyArray

TURN, SCALE, SHEAR, SHIFT = 0.26, 0.12, 0.2, 1.5 / 28  # standard deviations: radians, logarithm, ratio, of a side


def affine(key: PRNGKeyArray, images: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
    """Every image turned, scaled, sheared and shifted at random, by bilinear interpolation; zero outside of it.

    Whatever the images' grey levels; of black and white ones it makes grey ones. Raises ValueError on other shapes.
    """
    if images.ndim != 4:
        raise ValueError(f"Images to turn have shape [height, width, channels], got {images.shape[1:]}.")
    images = images.astype(jnp.result_type(float))
    batch, height, width, _ = images.shape
    keys = jax.random.split(key, 4)
    angle, shear = (s * jax.random.normal(k, (batch,)) for s, k in ((TURN, keys[0]), (SHEAR, keys[1])))
    scale, shift = (s * jax.random.normal(k, (batch, 2)) for s, k in ((SCALE, keys[2]), (SHIFT, keys[3])))
    one, zero = jnp.ones_like(angle), jnp.zeros_like(angle)
    turn = jnp.stack([jnp.cos(angle), -jnp.sin(angle), jnp.sin(angle), jnp.cos(angle)], axis=-1).reshape(-1, 2, 2)
    slant = jnp.stack([one, shear, zero, one], axis=-1).reshape(-1, 2, 2)
    centre = jnp.asarray([(height - 1) / 2, (width - 1) / 2], images.dtype)
    places = jnp.moveaxis(jnp.indices((height, width), images.dtype), 0, -1) - centre[None, None]
    sources = jnp.einsum("bij,bjk,bk,hwk->bihw", turn, slant, jnp.exp(scale), places)
    shift = shift * jnp.asarray([height, width], images.dtype)[None]
    sources = sources + (shift + centre[None])[:, :, None, None]

    def one_channel(image: Float[Array, "H W"], source: Float[Array, "2 H W"]) -> Float[Array, "H W"]:
        return map_coordinates(image, list(source), order=1, mode="constant")

    over_channels = jax.vmap(one_channel, in_axes=(-1, None), out_axes=-1)
    return jax.vmap(over_channels)(images, sources)


AUGMENTATIONS: dict[str, Callable[[PRNGKeyArray, Array], Array]] = {"affine": affine}
