"""What the two emoji sources share: code points as keys, and SVG made into pictures."""

import importlib.metadata
import io

from PIL import Image

from mcm.errors import UserError


def code_points(text: str) -> str:
    """Code points such as `2639-FE0F` as a key: lower case, without the variation selector that sets spell or leave."""
    return "-".join(part for part in text.lower().split("-") if part != "fe0f")


def render_svg(svg: bytes | str, name: str, side: int) -> Image.Image:
    """An SVG as a picture `side` pixels wide, transparent where nothing is drawn. System fonts are not used, so that it
    looks the same on every machine."""
    import resvg_py

    text = svg.decode("utf-8") if isinstance(svg, bytes) else svg
    try:
        png = bytes(resvg_py.svg_to_bytes(svg_string=text, width=side, skip_system_fonts=True))
    except ValueError as error:
        raise UserError(f"{name}: not drawable as SVG ({error}); install the package again") from None
    return Image.open(io.BytesIO(png))


def drawn_side(resolution: int) -> int:
    """The side at which an SVG is drawn before it is resized: at least twice what is stored."""
    return max(144, 2 * resolution)


def installed(package: str) -> str:
    """The version of an installed Python package; UserError that names it where it is not there."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        raise UserError(f"data.source: this one needs the package {package}; run 'pip install {package}'") from None
