"""From an encoded picture to pixels."""

import io

import numpy as np
import pytest
from cleanfid.resize import make_resizer
from PIL import Image

from mcm.data.images import centre_crop, decode, resize, to_pixels
from mcm.errors import UserError


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def encoded(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format=kind)
    return buffer.getvalue()


@pytest.mark.parametrize(("side", "resolution"), [(50, 32), (300, 32), (20, 32), (64, 64)])
def test_resize_is_that_of_clean_fid(side: int, resolution: int) -> None:
    pixels = noise(side, side, 3)
    theirs = make_resizer("PIL", False, "bicubic", (resolution, resolution))(pixels)
    assert np.array_equal(resize(pixels, resolution), theirs)
    assert np.abs(to_pixels(pixels, resolution, 3, "x") - theirs).max() <= 0.5


def test_resize_is_antialiased() -> None:
    stripes = np.tile(np.array([0, 255], dtype=np.uint8), (256, 128))[:, :, None]
    inner = resize(stripes, 16)[:, 2:-2]
    assert np.ptp(inner) < 2 and abs(inner.mean() - 127.5) < 1


def test_pixels_of_the_right_size_are_kept() -> None:
    pixels = noise(32, 32, 3)
    assert np.array_equal(to_pixels(decode(encoded(pixels), "x"), 32, 3, "x"), pixels)


def test_the_crop_is_central() -> None:
    assert np.array_equal(centre_crop(np.arange(10).reshape(1, 10, 1)), [[[4]]])
    tall = noise(9, 5, 3)
    assert np.array_equal(centre_crop(tall), tall[2:7])


def test_transparency_becomes_white() -> None:
    picture = np.zeros((4, 4, 4), dtype=np.uint8)
    picture[:2, :, 3] = 255
    pixels = to_pixels(decode(encoded(picture), "x"), 4, 3, "x")
    assert (pixels[:2] == 0).all() and (pixels[2:] == 255).all()
    palette = Image.fromarray(picture[:, :, 0]).convert("P")
    palette.info["transparency"] = 0
    assert (to_pixels(palette, 4, None, "x") == 255).all()
    grey_alpha = Image.fromarray(picture[:, :, [0, 3]])
    assert grey_alpha.mode == "LA" and to_pixels(grey_alpha, 4, None, "x")[-1, -1].tolist() == [255]


def test_channels_as_told_or_as_they_are() -> None:
    grey, colour = decode(encoded(noise(8, 8)), "g"), decode(encoded(noise(8, 8, 3)), "c")
    assert [to_pixels(p, 8, c, "x").shape[2] for p in (grey, colour) for c in (3, 1, None)] == [3, 1, 1, 3, 1, 3]
    assert np.array_equal(to_pixels(grey, 8, 3, "x"), noise(8, 8)[:, :, None].repeat(3, axis=2))


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    deep = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    pixels = to_pixels(decode(encoded(deep), "x"), 8, None, "x")
    assert np.array_equal(pixels[:, :, 0], np.rint(deep / 257))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"hello", r"a/b.png: unreadable image \(not a picture that Pillow knows\); replace or remove it"),
        (b"", "unreadable image"),
        (encoded(noise(64, 64, 3), "JPEG")[:1500], "a/b.png: unreadable image .*truncated"),
        (encoded(noise(64, 64, 3))[:3000], "unreadable image"),
    ],
)
def test_unreadable_images_are_named(data: bytes, message: str) -> None:
    with pytest.raises(UserError, match=message):
        decode(data, "a/b.png")


def test_too_small_too_large_and_unbounded_images_are_named() -> None:
    with pytest.raises(UserError, match=r"dot.png: 1 x 1 pixels, too small"):
        to_pixels(decode(encoded(noise(1, 1, 3)), "dot.png"), 8, 3, "dot.png")
    with pytest.raises(UserError, match=r"line.png: 9 x 1 pixels"):
        to_pixels(noise(1, 9, 3), 8, 3, "line.png")
    with pytest.raises(UserError, match=r"f.tif: 32-bit pixels"):
        to_pixels(np.zeros((4, 4), dtype=np.float32), 8, 3, "f.tif")
    bomb = encoded(np.zeros((2, 2), dtype=np.uint8), "BMP")
    bomb = bomb[:18] + (30000).to_bytes(4, "little") * 2 + bomb[26:]
    with pytest.raises(UserError, match=r"bomb.bmp: too many pixels"):
        decode(bomb, "bomb.bmp")
