"""A comparison of two runs, from its JSON, as text for a terminal and as Markdown for a pull request.

The first lines answer what changed and which cause came first. Long values are shortened here; the JSON has them whole.
"""

import io
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Group

# State -> colour, and what it means; the word stands beside the colour.
STATES = {
    "changed": ("yellow", "changed"),
    "added": ("green", "added"),
    "removed": ("red", "removed"),
    "recomputed": ("cyan", "recomputed to the same bytes"),
    "same": ("dim", "the same execution"),
}
MD5 = re.compile(r"[0-9a-f]{32}(\.dir)?")
DIGEST = re.compile(r"^.*@(sha256:[0-9a-f]{12})[0-9a-f]*$")
LONG = 40  # characters of a value
LINES = 12  # of causes
ROWS = 40  # of metrics in a terminal
ROWS_OF_A_COMMENT = 100  # a comment of GitHub holds 65 536 characters

Quote = Callable[[str], str]


def as_text(diff: Mapping[str, Any], everything: bool = False) -> "Group":
    """For a terminal: the answer, the nodes, and beside them the parameters and metrics that differ.

    `everything` adds notes, what differs at nodes that gave the same bytes, measured metrics, and rows left out for
    length.
    """
    from rich.console import Group
    from rich.text import Text

    parts: list[Any] = [Text(line) for line in _sides(diff)]
    parts += [Text(f"warning: {line}", style="yellow") for line in _warnings(diff)]
    parts.append(Text(""))
    answer, *more = list(_answer(diff, _plain, 10**6 if everything else LINES))
    parts += [Text(answer, style="bold"), *(Text(line) for line in more), Text(_counts(diff)), Text("")]
    parts.append(_nodes_table(diff, everything))
    parameters, metrics = list(_parameters(diff, _plain)), list(_metrics(diff, everything))
    shown = metrics if everything else metrics[:ROWS]
    for head, rows in (
        (("parameter", "a", "b", "at", "effect"), parameters),
        (("node", "metric", "a", "b", "difference"), shown),
    ):
        if rows:
            parts += [Text(""), _table(head, rows)]
    if len(shown) < len(metrics):
        parts.append(Text(f"and {len(metrics) - len(shown)} more metrics; --all shows them"))
    return Group(*parts)


def as_lines(diff: Mapping[str, Any], everything: bool = False) -> str:
    """The same where no terminal is: one line a row, however long, without colour."""
    from rich.console import Console

    written = io.StringIO()
    Console(file=written, width=100_000, color_system=None, force_terminal=False).print(as_text(diff, everything))
    return "\n".join(line.rstrip() for line in written.getvalue().rstrip("\n").split("\n"))


def show(diff: Mapping[str, Any], everything: bool = False) -> None:
    """Text on stdout, folded to the width of a terminal, whole elsewhere."""
    from rich.console import Console

    console = Console(highlight=False)
    if console.is_terminal:
        console.print(as_text(diff, everything))
    else:
        print(as_lines(diff, everything))


def headline(diff: Mapping[str, Any]) -> str:
    """The answer in one line."""
    return next(_answer(diff, _plain, 1)).removesuffix(":")


def as_markdown(diff: Mapping[str, Any]) -> str:
    """For a pull request: the answer, a table of the nodes that differ, the metrics that differ."""
    sides = [_code(diff[side]["name"]) for side in "ab"]
    answer, *more = list(_answer(diff, _code, LINES))
    lines = [f"### Lineage: {sides[0]} → {sides[1]}", "", f"**{answer[:1].upper()}{answer[1:]}**"]
    lines += ["", *(f"- {line.strip()}" for line in more)] if more else []
    lines += ["", _counts(diff)]
    lines += [f"\n> warning: {_code(line)}" for line in _warnings(diff)]
    differ = [node for node in diff["nodes"] if node["state"] in ("changed", "added", "removed")]
    tables: list[tuple[str, Sequence[str], list[Sequence[str]]]] = [
        (
            "nodes",
            ("node", "state", "because"),
            [(_code(node["key"]), node["state"], _because(node, diff, _code)) for node in differ],
        ),
        (
            "parameters",
            ("parameter", "a", "b", "at", "effect"),
            [(*map(_code, row[:3]), *row[3:]) for row in _parameters(diff, _code)],
        ),
        (
            "metrics",
            ("node", "metric", "a", "b", "difference"),
            [(*map(_code, row[:2]), *row[2:]) for row in _metrics(diff, everything=False)],
        ),
    ]
    for what, head, rows in tables:
        lines += _markdown_table(head, rows, what)
    return "\n".join(lines) + "\n"


def value(given: Any) -> str:
    """A value in a few characters."""
    if given is None:
        return "none"
    text = given if isinstance(given, str) else json.dumps(given, ensure_ascii=False)
    if MD5.fullmatch(text):
        return text[:8]
    text = DIGEST.sub(r"\1", text)
    return text if len(text) <= LONG else f"{text[: LONG // 2]}…{text[-LONG // 2 + 1 :]}"


def phrase(cause: Mapping[str, Any], quote: Quote) -> str:
    """A cause or a change in a few words."""
    kind, name, before, after = (cause[key] for key in ("kind", "name", "before", "after"))
    if kind == "unexplained":
        known = name == "not reproducible"
        return "not reproducible: other bytes from the same facts" if known else f"unexplained, {quote(name)}"
    if kind == "stage":
        return f"{quote(name)} {'added' if before is None else 'removed'}"
    what = kind if kind == name else f"{kind} {quote(name)}"
    if kind in ("code", "library", "data") and None in (before, after):
        where = "b" if before is None else "a"
        return f"{what} only in {where}{'' if kind == 'code' else f' ({quote(value(after or before))})'}"
    return f"{what} {quote(value(before))} -> {quote(value(after))}"


def _plain(text: str) -> str:
    """Text that cannot steer a terminal: names come from files that others wrote."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)


def _code(text: str) -> str:
    """A code span of Markdown that stays in its table cell."""
    plain = _plain(text).replace("`", "'").replace("|", "\\|")
    return f"`{plain}`"


def _sides(diff: Mapping[str, Any]) -> Iterator[str]:
    for side in "ab":
        of = diff[side]
        run = [f"run {of['run']}"] if of["run"] not in (of["name"], of["commit"]) else []
        began = [f"{datetime.fromisoformat(of['started']).astimezone():%Y-%m-%d %H:%M}"] if of["started"] else []
        commit = [f"commit {of['commit'][:12]}"] if of["commit"] else []
        yield _plain(f"{side}: {of['name']} ({', '.join([*run, of['by'], *began, *commit])})")


def _warnings(diff: Mapping[str, Any]) -> Iterator[str]:
    for side in "ab":
        for line in diff[side]["warnings"]:
            yield _plain(f"{side}: {line}")


def _answer(diff: Mapping[str, Any], quote: Quote, most: int) -> Iterator[str]:
    """What changed, and which cause came first: the answer, and the lines that belong to it."""
    causes, counts = _grouped(diff["causes"]), diff["counts"]
    lines = [_came(group, diff, quote) for group in causes[:most]]
    alone = counts["added"] + counts["removed"]
    if len(causes) == 1:
        yield f"first cause: {lines[0]}"
    elif causes:
        yield f"{len(causes)} first causes:"
        yield from (f"  {line}" for line in lines)
        if len(causes) > most:
            yield f"  and {len(causes) - most} more"
    else:
        yield "same bytes at every node" + (" that both runs have" if alone else "")
    for state, side in (("added", "b"), ("removed", "a")):
        keys = [quote(node["key"]) for node in diff["nodes"] if node["state"] == state]
        if keys:
            yield f"only in {side}: {_listed(keys)}"
    idle = _grouped(diff["without_effect"])
    for group in idle[:most]:
        yield f"without effect: {_together(group, quote)}, at {_listed([quote(key) for key in group[0]['at']])}"
    if len(idle) > most:
        yield f"and {len(idle) - most} more without effect"


def _grouped(causes: Sequence[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """One edit of several files is one thing to say: changes of code that acted at the same nodes are together."""
    groups: dict[Any, list[Mapping[str, Any]]] = {}
    for index, cause in enumerate(causes):
        groups.setdefault(tuple(cause["at"]) if cause["kind"] == "code" else index, []).append(cause)
    return list(groups.values())


def _together(group: Sequence[Mapping[str, Any]], quote: Quote) -> str:
    """A group of causes in a few words."""
    if len(group) == 1:
        return phrase(group[0], quote)
    return f"code {_listed([quote(cause['name']) for cause in group])}"


def _came(group: Sequence[Mapping[str, Any]], diff: Mapping[str, Any], quote: Quote) -> str:
    """Causes, where they came first, and how far they went."""
    at, index = group[0]["at"], diff["causes"].index(group[0])
    followed = sum(index in node["causes"] and node["key"] not in at for node in diff["nodes"])
    place = "" if group[0]["kind"] == "stage" else f", at {_listed([quote(key) for key in at])}"
    return f"{_together(group, quote)}{place}; {followed} node{'' if followed == 1 else 's'} followed"


def _counts(diff: Mapping[str, Any]) -> str:
    counts = diff["counts"]
    total = len(diff["nodes"])
    return f"{total} node{'' if total == 1 else 's'}: " + ", ".join(
        f"{counts[s]} {text}" for s, (_, text) in STATES.items() if counts[s]
    )


def _because(node: Mapping[str, Any], diff: Mapping[str, Any], quote: Quote) -> str:
    """Why a node changed: the causes that came first here, then the nodes that it followed."""
    causes = [diff["causes"][index] for index in node["causes"]]
    first = [_together(group, quote) for group in _grouped(causes) if node["key"] in group[0]["at"]]
    above = dict.fromkeys(key for cause in causes if node["key"] not in cause["at"] for key in cause["at"])
    said = ["first: " + "; ".join(first[:LINES])] if first else []
    said += [f"followed {_listed([quote(key) for key in above])}"] if above else []
    return "; ".join(said)


def _listed(names: Sequence[str], most: int = 3) -> str:
    if len(names) > most + 1:
        return f"{', '.join(names[:most])} and {len(names) - most} more"
    return ", ".join(names)


def _details(node: Mapping[str, Any], everything: bool) -> str:
    """What else is worth saying of a node: why one that is alone has no partner, or everything."""
    if not everything and node["state"] not in ("added", "removed"):
        return ""
    despite = [f"despite {phrase(c, _plain)}" for c in node["changes"]] if node["state"] == "recomputed" else []
    return "; ".join([*despite, *map(_plain, node["notes"])])


def _made(node: Mapping[str, Any], side: str) -> str:
    """The first output by which one can see whether it changed; the md5 of measured durations says nothing."""
    outputs = sorted(node["outputs"], key=lambda made: (made["measured"], made["equal"]))
    if not outputs or not outputs[0][side]:
        return "-"
    return "durations" if outputs[0]["measured"] else value(outputs[0][side])


def _nodes_table(diff: Mapping[str, Any], everything: bool) -> Any:
    rows = [
        (
            node["key"],
            node["state"],
            _made(node, "a"),
            _made(node, "b"),
            "; ".join(filter(None, (_because(node, diff, _plain), _details(node, everything)))),
        )
        for node in diff["nodes"]
    ]
    return _table(("node", "state", "a", "b", "because"), rows, [STATES[node["state"]][0] for node in diff["nodes"]])


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], styles: Sequence[str] = ()) -> Any:
    """Columns that keep their lines whole, but for the last, which folds where a terminal is narrow."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in head:
        last = name == head[-1]
        table.add_column(name, no_wrap=not last, overflow="fold" if last else "ellipsis")
    for index, row in enumerate(rows):
        style = styles[index] if styles else ""
        table.add_row(*(Text(_plain(text), style=style if column < 2 else "") for column, text in enumerate(row)))
    return table


def _parameters(diff: Mapping[str, Any], quote: Quote) -> Iterator[tuple[str, str, str, str, str]]:
    """Parameters and seeds that differ: name, both values, where, and whether that did anything."""
    for effect, causes in (("first cause", diff["causes"]), ("without effect", diff["without_effect"])):
        for cause in causes:
            if cause["kind"] in ("parameter", "seed"):
                at = _listed([quote(key) for key in cause["at"]])
                yield cause["name"], value(cause["before"]), value(cause["after"]), at, effect


def _metrics(diff: Mapping[str, Any], everything: bool) -> Iterator[tuple[str, str, str, str, str]]:
    """Metrics that differ: node, name, both figures, the difference. A report repeats those of evaluations: once."""
    shown = set()
    for node in diff["nodes"]:
        for figure in node["metrics"]:
            a, b = figure["a"], figure["b"]
            fact = (figure["name"].rpartition(".")[2], a, b)
            if not everything and (figure["measured"] or fact in shown):
                continue
            shown.add(fact)
            yield node["key"], figure["name"], _figure(a), _figure(b), _difference(a, b)


def _figure(number: float | None) -> str:
    return "-" if number is None else f"{number:.5g}"


def _difference(a: float | None, b: float | None) -> str:
    if a is None or b is None:
        return ""
    return f"{b - a:+.3g}" + (f" ({(b - a) / abs(a):+.1%})" if a else "")


def _markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]], what: str) -> Iterator[str]:
    if not rows:
        return
    yield ""
    yield f"| {' | '.join(head)} |"
    yield f"| {' | '.join('---' for _ in head)} |"
    yield from (f"| {' | '.join(row)} |" for row in rows[:ROWS_OF_A_COMMENT])
    if len(rows) > ROWS_OF_A_COMMENT:
        yield f"\nand {len(rows) - ROWS_OF_A_COMMENT} more {what}"
