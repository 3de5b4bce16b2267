"""From content to text: one self-contained HTML page, and a Markdown twin with its plots beside it."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import jinja2
from markdown_it import MarkdownIt
from markupsafe import Markup

from components.report.render import TEMPLATES as REPORT
from components.report.render import data_uri, escape_markdown
from pipelines.study.checks import Check
from pipelines.study.content import Content
from pipelines.study.tables import Table

TEMPLATES = Path(__file__).parent / "templates"


def page(content: Content) -> str:
    """The HTML page. It loads nothing: pictures are data URIs and the style is inline. All text is escaped."""
    environment = _environment(autoescape=True)
    prose = MarkdownIt("commonmark", {"html": False}).enable("table")
    environment.filters["prose"] = lambda text: Markup(prose.render(text))  # HTML in it is escaped, not passed on
    environment.filters["svg"] = lambda text: data_uri(text.encode(), "image/svg+xml")
    environment.filters["whole"] = lambda text: text.replace(" ± ", "\u00a0±\u00a0")  # no line breaks in a figure
    environment.filters["png"] = lambda data: data_uri(data, "image/png")
    style = "".join(path.read_text() for path in (REPORT / "page.css.j2", TEMPLATES / "page.css.j2"))
    # Our own files, and no text of a user's: they are set as they are.
    return environment.get_template("page.html.j2").render(content=content, style=Markup(style))


def markdown(content: Content, plots: str) -> str:
    """The Markdown twin; it refers to the folder `plots` beside it. Text is escaped so that it stays text."""
    environment = _environment(autoescape=False)
    environment.filters["md"] = escape_markdown
    environment.filters["table"] = markdown_table
    environment.filters["checks"] = markdown_checks
    text = environment.get_template("page.md.j2").render(content=content, plots=plots)
    return text.strip() + "\n"


def markdown_table(table: Table) -> str:
    """A table in Markdown: the best in bold, the paper's figures in italics."""
    rows = []
    for line in table.lines:
        first_paper = len(line.cells) - table.papers
        cells = []
        for place, cell in enumerate(line.cells):
            text = escape_markdown(cell.text)
            theirs = text and (place >= first_paper or line.kind == "paper")
            cells.append(f"**{text}**" if cell.best else f"*{text}*" if theirs else text)
        rows.append([*map(escape_markdown, line.headings), *cells])
    headings = map(escape_markdown, (*table.index, *table.columns))
    return _grid(headings, ["---"] * len(table.index) + ["---:"] * len(table.columns), rows)


def markdown_checks(check: Check) -> str:
    """The results of a claim in Markdown."""
    headings = ("where", "", "should be", "", "p", "")
    rows = [
        [
            *map(
                escape_markdown,
                (result.place, result.left, result.relation, result.right, result.p_text, result.verdict),
            )
        ]
        for result in check.results
    ]
    return _grid(headings, ["---", "---", "---", "---", "---:", "---"], rows)


def _grid(headings: Iterable[str], marks: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in ([*headings], marks, *rows))


def _environment(autoescape: bool) -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=autoescape,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
