"""From content to text: one self-contained HTML page, and a Markdown twin with its pictures beside it."""

import base64
import re
from pathlib import Path

import jinja2
from markupsafe import Markup

from components.report.content import Content

TEMPLATES = Path(__file__).parent / "templates"


def page(content: Content) -> str:
    """The HTML page. It loads nothing: pictures are data URIs and the style is inline. All text is escaped."""
    environment = _environment(autoescape=True)
    environment.filters["uri"] = data_uri
    style = (TEMPLATES / "page.css.j2").read_text()
    # Our own file, and no text of a user's: it is set as it is.
    return environment.get_template("page.html.j2").render(content=content, style=Markup(style))


def markdown(content: Content) -> str:
    """The Markdown twin; it refers to `images/` beside it. Text is escaped so that it stays text."""
    environment = _environment(autoescape=False)
    environment.filters["md"] = escape_markdown
    environment.filters["indented"] = indented
    text = environment.get_template("report.md.j2").render(content=content)
    lines = [line.rstrip() for line in re.sub(r"\|\s*\n\n\|", "|\n|", text).split("\n")]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip() + "\n"


def images(content: Content) -> dict[str, bytes]:
    """The PNGs that the Markdown twin shows, by file name."""
    charts = [*content.dial, content.x_var, *content.losses]
    named = {f"{chart.name}.png": chart.png for chart in charts}
    return named | {strip.file: strip.png for grid in content.grids for strip in grid.strips}


def data_uri(data: bytes, kind: str) -> str:
    """Bytes of a media type as a `data:` address."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def escape_markdown(text: str) -> str:
    """One line of text that Markdown, in a table too, sets as it is."""
    line = text.replace("\r", " ").replace("\n", " ").replace("&", "&amp;")
    line = line.replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|~#!$])", r"\\\1", line)


def indented(text: str) -> str:
    """A code block that no text can close: every line indented by four blanks."""
    return "\n".join(f"    {line}" for line in text.split("\n"))


def _environment(autoescape: bool) -> jinja2.Environment:
    loader = jinja2.FileSystemLoader(TEMPLATES)
    return jinja2.Environment(loader=loader, autoescape=autoescape, undefined=jinja2.StrictUndefined)
