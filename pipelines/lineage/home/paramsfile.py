"""params.yaml changed to what a run was asked for: what is equal stays as it is written, with comments and layout."""

import io
from collections.abc import Mapping
from typing import Any

from mcm.errors import UserError


def written(text: str, asked: Mapping[str, Any]) -> str:
    """The text of a parameters file that holds just `asked`: itself, where it does. UserError where it is no YAML."""
    from ruamel.yaml import YAML, YAMLError
    from ruamel.yaml.util import load_yaml_guess_indent

    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 10_000  # no line is broken that was not
    try:
        values, indent, offset = load_yaml_guess_indent(text, yaml=yaml)
    except YAMLError as error:
        said = str(getattr(error, "problem", None) or error).splitlines()[0]
        raise UserError(f"params.yaml: not readable as YAML ({said}); mend it, or `git checkout params.yaml`") from None
    if not isinstance(values, dict):
        raise UserError("params.yaml: holds no sections; `git checkout params.yaml` brings them back")
    # A section that is empty in the run need not be named.
    wanted = {name: value for name, value in asked.items() if value or name in values}
    if not _put(values, wanted):
        return text
    yaml.indent(mapping=2, sequence=indent or 2, offset=offset or 0)
    stream = io.StringIO()
    yaml.dump(values, stream)
    return stream.getvalue()


def _put(into: Any, wanted: Mapping[str, Any]) -> bool:
    """Make a mapping of the file equal to `wanted`. Whether that changed it."""
    gone = [key for key in into if key not in wanted]
    for key in gone:
        del into[key]
    changed = bool(gone)
    for key, value in wanted.items():
        old = into.get(key)
        if isinstance(old, dict) and isinstance(value, Mapping):
            changed |= _put(old, value)
        elif key not in into or not _equal(old, value):
            into[key] = _styled(value, old)
            changed = True
    return changed


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_equal, a, b))
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(_equal(a[key], b[key]) for key in a)
    return bool(a == b)


def _styled(value: Any, old: Any) -> Any:
    """A value in the style of the one that it replaces: `[1, 2]` stays in one line. Lists of values are, when new."""
    from ruamel.yaml.comments import CommentedMap, CommentedSeq

    if isinstance(value, Mapping):
        made = CommentedMap((key, _styled(item, None)) for key, item in value.items())
        if isinstance(old, CommentedMap) and old.fa.flow_style():
            made.fa.set_flow_style()
        return made
    if isinstance(value, list):
        before = list(old) if isinstance(old, list) else []
        items = [
            _styled(item, before[k] if k < len(before) else before[0] if before else None)
            for k, item in enumerate(value)
        ]
        listed = CommentedSeq(items)
        flow = old.fa.flow_style() if isinstance(old, CommentedSeq) else not any(isinstance(i, Mapping) for i in value)
        if flow:
            listed.fa.set_flow_style()
        return listed
    return value
