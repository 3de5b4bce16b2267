"""The page of a diff: one HTML file with the data, the drawing's places, style and program in it.

Its content security policy lets nothing be loaded and runs only the program that is in it, by hash. Every text of the
records reaches the page through jinja's escaping or as JSON whose `<` is escaped, and is set as text.
"""

import base64
import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from mcm.artifacts import atomic_file
from mcm.errors import UserError
from pipelines.lineage.page import words
from pipelines.lineage.page.layout import Layout, arrange

TEMPLATES = Path(__file__).parent / "templates"
PROGRAM = ("data.js.j2", "graph.js.j2", "panel.js.j2", "app.js.j2")
WIDTHS = {"wide": 1040.0, "middle": 640.0, "narrow": 350.0}  # of the drawings, in pixels; the page takes what fits
SHARED = ("code", "libraries", "hardware")  # parts of a record that many records have alike
Pictures = Mapping[str, tuple[bytes | None, bytes | None]]


def write_page(diff: Mapping[str, Any], out: Path, pictures: Pictures | None = None) -> None:
    """Write the page of a diff (the form of `mcm lineage diff --json`) to `out`, whole or not at all.

    `pictures` holds PNG files by node key: what the node made in A and in B. UserError where `out` cannot be written.
    """
    text = page(diff, pictures or {})
    if Path(out).is_dir():
        raise UserError(f"{out}: is a folder; name a file for the page")
    try:
        with atomic_file(Path(out)) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror}); name another file") from None


def page(diff: Mapping[str, Any], pictures: Pictures) -> str:
    """The HTML text."""
    style = Markup("\n" + (TEMPLATES / "page.css.j2").read_text(encoding="utf-8"))
    program = Markup("\n" + "".join((TEMPLATES / name).read_text(encoding="utf-8") for name in PROGRAM))
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters |= {"cause": words.cause, "figure": figure, "listed": words.listed, "facts": words.facts}
    return environment.get_template("page.html.j2").render(
        diff=diff,
        headline=words.headline(diff),
        summary=words.summary(diff),
        states=words.STATES,
        rows=_rows(diff),
        data=embedded(_data(diff, pictures)),
        style=style,
        program=program,
        policy=f"default-src 'none'; img-src data:; style-src '{_hash(style)}'; script-src '{_hash(program)}'; "
        "base-uri 'none'; form-action 'none'",
    )


def figure(number: float | None) -> str:
    """A number with six digits at most, as the program of the page writes it too."""
    return "–" if number is None else f"{number:.6g}"


def embedded(value: Any) -> Markup:
    """JSON for a script element: no text in it can end the element or begin a comment."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def _data(diff: Mapping[str, Any], pictures: Pictures) -> dict[str, Any]:
    """What the program needs. Equal records, parts of records and pictures are there once, and named by number."""
    parts, records, pngs = _Once(), _Once(), _Once()

    def record(given: Mapping[str, Any] | None) -> int | None:
        if given is None:
            return None
        return records.number({k: parts.number(v) if k in SHARED and v else v for k, v in _finite(given).items()})

    def png(data: bytes | None) -> int | None:
        return None if data is None else pngs.number(f"data:image/png;base64,{base64.b64encode(data).decode()}")

    causes = diff["causes"]
    nodes = [
        _finite({k: v for k, v in node.items() if k not in ("a", "b")})
        | {"a": record(node["a"]), "b": record(node["b"]), "why": words.why(node, causes)}
        for node in diff["nodes"]
    ]
    return {
        "a": diff["a"],
        "b": diff["b"],
        "causes": [dict(item) | {"text": words.cause(item)} for item in causes],
        "nodes": nodes,
        "edges": diff["edges"],
        "sources": diff["sources"],
        "states": words.STATES,
        "kinds": words.KINDS,
        "records": records.values,
        "parts": parts.values,
        "pictures": {key: [png(a), png(b)] for key, (a, b) in pictures.items()},
        "pngs": pngs.values,
        "layouts": {name: _drawing(_arranged(diff, width), diff) for name, width in WIDTHS.items()},
    }


def _arranged(diff: Mapping[str, Any], width: float) -> Layout:
    nodes = [(node["key"], node["stage"], node["task"]) for node in diff["nodes"]]
    both = {node["key"] for node in diff["nodes"] if node["a"] is not None and node["b"] is not None}
    edges = [(edge["maker"], edge["reader"]) for edge in diff["edges"]]
    # Another way between two stages that both runs have is a difference, and always drawn.
    always = [n for n, edge in enumerate(diff["edges"]) if edge["in"] != "both" and both >= set(edges[n])]
    return arrange(nodes, edges, width, always)


def _drawing(layout: Layout, diff: Mapping[str, Any]) -> dict[str, Any]:
    """A layout as plain lists; nodes by their number in the diff."""
    number = {node["key"]: at for at, node in enumerate(diff["nodes"])}
    boxes = [layout.boxes[key] for key in number]
    return {
        "width": layout.width,
        "height": round(layout.height, 1),
        "boxes": [[round(b.x, 1), round(b.y, 1), round(b.width, 1), round(b.height, 1)] for b in boxes],
        "blocks": [
            {
                "stage": block.stage,
                "nodes": [number[key] for key in block.keys],
                "box": [round(x, 1) for x in (block.box.x, block.box.y, block.box.width, block.box.height)],
            }
            for block in layout.blocks
        ],
        "lines": [[line.path, list(line.edges)] for line in layout.lines],
    }


def _rows(diff: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The nodes for the table, with what each reads from."""
    makers: dict[str, list[str]] = {}
    for edge in diff["edges"]:
        found = makers.setdefault(edge["reader"], [])
        if edge["maker"] not in found:
            found.append(edge["maker"])
    return [
        {"node": node, "why": words.why(node, diff["causes"]), "makers": makers.get(node["key"], [])}
        for node in diff["nodes"]
    ]


def _finite(value: Any) -> Any:
    """The same with null for numbers that JSON does not know."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, (list, tuple)) else value


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


class _Once:
    """A list that holds equal values once."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self._numbers: dict[str, int] = {}

    def number(self, value: Any) -> int:
        """Where the value is in the list."""
        key = json.dumps(value, sort_keys=True)
        if key not in self._numbers:
            self._numbers[key] = len(self.values)
            self.values.append(value)
        return self._numbers[key]
