"""From an encoded picture to square uint8 pixels: decode, lay on white, centre crop, antialiased resize.

The resize is clean-fid's (Parmar et al. 2022, "On Aliased Resizing"): Pillow's bicubic on each channel in float32, with
the filter's support scaled to the reduction, clipped to 0..255. clean-fid feeds these floats to its network; stored
pixels are rounded to the nearest integer. (Its own function takes three channels only; a test holds the two equal.)
"""

import io
from typing import Literal

import numpy as np
from PIL import Image

from mcm.errors import UserError

Channels = Literal[1, 3] | None
Picture = Image.Image | np.ndarray

_SMALLEST_SIDE = 2


def decode(data: bytes, name: str) -> Image.Image:
    """The first frame of an encoded picture; UserError that names it where Pillow cannot read all of it."""
    try:
        image = Image.open(io.BytesIO(data))
        image.load()
    except Image.DecompressionBombError as error:
        raise UserError(f"{name}: too many pixels ({error}); make it smaller or remove it") from None
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        reason = "not a picture that Pillow knows" if "cannot identify" in str(error) else str(error)
        raise UserError(f"{name}: unreadable image ({reason}); replace or remove it") from None
    return image


def to_pixels(picture: Picture, resolution: int, channels: Channels, name: str) -> np.ndarray:
    """A decoded picture as uint8 `[resolution, resolution, C]`.

    `channels` 3 makes every picture RGB and 1 makes every picture grey; None keeps what is there (C is 1 or 3).
    UserError, naming the picture, for one of fewer than 2 x 2 pixels or of a kind that has no 8-bit meaning.
    """
    if isinstance(picture, np.ndarray):
        image = Image.fromarray(picture[:, :, 0] if picture.shape[2:] == (1,) else picture)
    else:
        image = picture
    if min(image.size) < _SMALLEST_SIDE:
        width, height = image.size
        raise UserError(f"{name}: {width} x {height} pixels, too small to learn from; remove it or use a larger one")
    pixels = centre_crop(_flatten(image, channels, name))
    return np.rint(resize(pixels, resolution)).astype(np.uint8)


def centre_crop(pixels: np.ndarray) -> np.ndarray:
    """The central square of `[H, W, C]`, as large as it goes."""
    height, width = pixels.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return pixels[top : top + side, left : left + side]


def resize(pixels: np.ndarray, resolution: int) -> np.ndarray:
    """uint8 `[H, W, C]` as float32 `[resolution, resolution, C]` in 0..255, antialiased as clean-fid does."""
    size = (resolution, resolution)
    planes = [
        np.asarray(Image.fromarray(pixels[:, :, c].astype(np.float32)).resize(size, resample=Image.Resampling.BICUBIC))
        for c in range(pixels.shape[2])
    ]
    return np.stack(planes, axis=2).clip(0, 255)


def _flatten(image: Image.Image, channels: Channels, name: str) -> np.ndarray:
    """Opaque 8-bit pixels `[H, W, C]`, with transparency laid on white."""
    if image.mode.startswith("I;16"):
        grey16 = np.asarray(image).astype(np.float64)
        image = Image.fromarray(np.rint(grey16 / 257).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise UserError(f"{name}: 32-bit pixels (mode {image.mode}) have no fixed range; save it with 8 or 16 bits")
    if channels is None:
        channels = 1 if image.mode in ("1", "L", "LA", "La") else 3
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    pixels = np.asarray(image.convert("RGB" if channels == 3 else "L"))
    return pixels.reshape(*pixels.shape[:2], channels)
