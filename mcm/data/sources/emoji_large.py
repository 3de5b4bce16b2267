"""The large emoji set: eight styles from npm packages, captions and categories from OpenMoji's table.

The packages are fetched with `npm pack` on first use, checked by their sha256, kept, and read without unpacking. Seven
are Iconify's (one JSON of SVG bodies each), one holds WebP files. Pictures are matched with the table by code points,
or else by name. Blank and exactly repeated pictures are dropped; the split goes by caption, since styles repeat
concepts.
"""

import functools
import hashlib
import json
import re
import shutil
import subprocess
import tarfile
import tempfile
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mcm.artifacts import cache_folder
from mcm.data.config import DataConfig
from mcm.data.images import decode
from mcm.data.sources.glyphs import code_points, drawn_side, installed, render_svg
from mcm.data.sources.record import Licence, Listing, Record
from mcm.errors import UserError


@dataclass(frozen=True)
class Package:
    """One npm package: its exact version, the sha256 of its archive, and whose pictures it holds."""

    name: str
    version: str
    sha256: str
    style: str
    licence: str
    attribution: str

    @property
    def file(self) -> str:
        """The name that `npm pack` gives its archive."""
        return f"{self.name.removeprefix('@').replace('/', '-')}-{self.version}.tgz"

    def entry(self) -> Licence:
        """Its row in `licences.json`."""
        return Licence(self.name, self.version, self.licence, self.attribution)


TABLE = Package(
    "openmoji", "17.0.0", "55ee7d13485dec86e9f38c1f3a645a13382d33ff97c0cd845ee824b0aef45e68",
    "", "CC-BY-SA-4.0", "OpenMoji, the open-source emoji and icon project",
)  # fmt: skip
STYLES = (
    Package("@iconify-json/noto", "1.2.9", "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad",
            "noto", "Apache-2.0", "Noto Emoji, Google Inc"),
    Package("@iconify-json/noto-v1", "1.2.5", "2bf62c26c2c2884aa99e90aec942cdaee17a5921f05690694f4978ad4b017c37",
            "noto-v1", "Apache-2.0", "Noto Emoji (v1), Google Inc"),
    Package("@iconify-json/fxemoji", "1.2.2", "f3e72b3c59d05e1db03b7e308d55c0d05bd7ba3f625a90da1b79313c12858eef",
            "fxemoji", "Apache-2.0", "Firefox OS Emoji, Mozilla"),
    Package("@iconify-json/fluent-emoji-flat", "1.2.6",
            "7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175",
            "fluent-flat", "MIT", "Fluent Emoji Flat, Microsoft Corporation"),
    Package("@lobehub/fluent-emoji-3d", "1.1.0", "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58",
            "fluent-3d", "MIT", "Fluent Emoji 3D, Microsoft Corporation, packed by LobeHub"),
    Package("@iconify-json/twemoji", "1.2.5", "19046dff7d8707ce96212ec86468b36ac5f8e60409629dd13f809265c6d0ebb7",
            "twemoji", "CC-BY-4.0", "Twemoji, Twitter, Inc. and other contributors"),
    Package("@iconify-json/emojione", "1.2.3", "26a14f44284407e8bcde91799388dca2bfd91dbcd55a97f425524a1c5b73610e",
            "emojione", "CC-BY-4.0", "EmojiTwo, based on Emoji One"),
    Package("@iconify-json/openmoji", "1.2.29", "03181e2c156cab35cf4a62f1f7886bd971d59212e75ac3f189d5a4cae3930fc5",
            "openmoji", "CC-BY-SA-4.0", "OpenMoji, the open-source emoji and icon project"),
)  # fmt: skip
EXTRAS = "extras"
# The packages' own categories, for pictures that the table does not know, as the table's groups.
GROUPS = {
    "activities": "activities", "animals nature": "animals-nature", "nature": "animals-nature", "flags": "flags",
    "food": "food-drink", "food drink": "food-drink", "objects": "objects", "people": "people-body",
    "people body": "people-body", "modifiers": "people-body", "smileys emotion": "smileys-emotion",
    "symbols": "symbols", "travel": "travel-places", "travel places": "travel-places", "places": "travel-places",
}  # fmt: skip
_TONE = re.compile(r"1f3f[b-f]|skin-tone|-tone\d|-(medium-)?(light|medium|dark)$")


def listing(config: DataConfig) -> Listing:
    """All eight styles, one after the other, in their packages' order; classes are the 10 categories, or the styles."""
    installed("resvg-py")
    cache = Path(config.path) if config.path else cache_folder() / "npm"
    archives = {package.style: fetch(package, cache) for package in (TABLE, *STYLES)}
    table = Table(_member(archives[""], "data/openmoji.json"))
    side = drawn_side(config.resolution)
    sets = {
        package.style: _iconify(archives[package.style])
        for package in STYLES
        if package.name.startswith("@iconify-json/")
    }
    for icons in sets.values():
        table.learn(icons)
    records = []
    for package in STYLES:
        found = (
            _drawn(package, sets[package.style], table, side)
            if package.style in sets
            else _packed(package, archives[package.style], table)
        )
        for record, category, toned in found:
            if toned and not config.skin_tones:
                continue
            label = {"source": category, "category": category, "style": package.style}.get(config.labels)
            records.append(
                Record(record.name, record.read, record.licence, label, record.caption, record.caption, record.decode)
            )
    return Listing(records, distinct=True)


class Table:
    """OpenMoji's table of emoji: annotation and group, found by code points or by an icon's name."""

    def __init__(self, rows: list[dict[str, Any]]):
        self.by_code = {code_points(row["hexcode"]): row for row in rows}
        self.by_name: dict[str, dict[str, Any]] = {}
        for row in rows:
            self.by_name.setdefault(_glued(row["annotation"]), row)

    def learn(self, icons: dict[str, Any]) -> None:
        """Take over the names that an Iconify set gives to code points that the table knows, and its other names."""
        for code, name in icons["chars"].items():
            if code_points(code) in self.by_code:
                self.by_name.setdefault(_glued(name), self.by_code[code_points(code)])
        for name, alias in icons["aliases"].items():
            pair = (_glued(name), _glued(alias["parent"]))
            for known, other in (pair, pair[::-1]):
                if known in self.by_name and not alias.keys() - {"parent"}:
                    self.by_name.setdefault(other, self.by_name[known])

    def describe(self, codes: list[str], name: str, category: str | None) -> tuple[str, str, bool]:
        """Caption, category and whether it is a skin-tone variant, of a picture with these codes and this name."""
        known = next((self.by_code[c] for c in map(code_points, codes) if c in self.by_code), None)
        row = known or self.by_name.get(_glued(name))
        toned = any(_TONE.search(text) for text in (*codes, name)) or bool(row and row["skintone"])
        if row is None:
            return name.replace("-", " "), GROUPS.get(_words(category or ""), EXTRAS), toned
        group = str(row["group"])
        if group.startswith(EXTRAS):
            group = EXTRAS
        return str(row["annotation"]), "symbols" if group == "component" else group, toned


def fetch(package: Package, cache: Path) -> Path:
    """The package's archive in `cache`, by `npm pack` where it is not there yet; UserError where that fails."""
    path = cache / package.file
    if path.is_file() and _sha256(path) == package.sha256:
        return path
    npm = shutil.which("npm")
    if npm is None:
        raise UserError(
            f"{package.name}: source emoji_large needs npm to fetch its packages, and there is none here; "
            f"install Node.js, or put {package.file} into '{cache}', or use source emoji"
        )
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".npm.", dir=cache) as temporary:
        command = [npm, "pack", "--silent", "--pack-destination", temporary, f"{package.name}@{package.version}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        fetched = Path(temporary) / package.file
        if done.returncode or not fetched.is_file():
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise UserError(f"{package.name}@{package.version}: npm pack failed ({last}); check the network, try again")
        if _sha256(fetched) != package.sha256:
            raise UserError(f"{package.name}@{package.version}: its archive is not the known one; use source emoji")
        fetched.replace(path)
    return path


def _drawn(package: Package, icons: dict[str, Any], table: Table, side: int) -> list[tuple[Record, str, bool]]:
    """Records of an Iconify set, each with its category and whether it is a skin-tone variant."""
    codes: dict[str, list[str]] = {}
    for code, name in icons["chars"].items():
        codes.setdefault(name, []).append(code)
    categories = {name: category for category, names in icons["categories"].items() for name in names}
    licence, draw = package.entry(), functools.partial(render_svg, side=side)
    found = []
    for name, icon in icons["icons"].items():
        if icon.get("hidden"):  # withdrawn by its makers
            continue
        caption, category, toned = table.describe(codes.get(name, []), name, categories.get(name))
        box = [icon.get(key, icons[key]) for key in ("left", "top", "width", "height")]
        svg = (
            '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'width="{box[2]}" height="{box[3]}" viewBox="{" ".join(map(str, box))}">{icon["body"]}</svg>'
        )
        record = Record(f"{package.name}/{name}", svg.encode, licence, caption=caption, decode=draw)
        found.append((record, category, toned))
    return found


def _packed(package: Package, archive: Path, table: Table) -> list[tuple[Record, str, bool]]:
    """Records of a package of WebP files that are named by code points."""
    licence, found = package.entry(), []
    with tarfile.open(archive) as opened:
        for member in opened:
            path = Path(member.name)
            stream = opened.extractfile(member) if member.isreg() and path.suffix == ".webp" else None
            if stream is None:
                continue
            code = path.stem.replace("_", "-")
            caption, category, toned = table.describe([code], code, None)
            keep = functools.partial(bytes, stream.read())
            record = Record(f"{package.name}/{path.name}", keep, licence, caption=caption, decode=decode)
            found.append((record, category, toned))
    return sorted(found, key=lambda item: item[0].name)


def _iconify(archive: Path) -> dict[str, Any]:
    """An Iconify set: icons, their frame, other names, code points and categories."""
    icons = _member(archive, "icons.json")
    frame = {"left": 0, "top": 0, "width": 16, "height": 16, "aliases": {}}
    categories = _member(archive, "metadata.json").get("categories", {})
    return frame | icons | {"chars": _member(archive, "chars.json"), "categories": categories}


def _member(archive: Path, name: str) -> Any:
    with tarfile.open(archive) as opened:
        stream = opened.extractfile(f"package/{name}")
        return json.loads(stream.read()) if stream else None


def _sha256(path: Path) -> str:
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _words(text: str) -> str:
    """Lower-case ASCII words."""
    ascii_only = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return " ".join(re.findall(r"[a-z0-9]+", ascii_only))


def _glued(text: str) -> str:
    """A name without spaces, hyphens and accents, so that all sets' spellings meet; flags are named two ways."""
    return re.sub(r"^(flag for flag|flag for) ", "flag ", _words(text)).replace(" ", "")
