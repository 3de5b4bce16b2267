"""One `dvc.lock` as lineage records: stages joined by what they made, in the words of our own programs' records."""

import hashlib
import json
import posixpath
import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

import yaml

from components.lineage import record as model
from components.lineage.recorder import flat
from components.storage.objects import SUFFIX
from mcm.errors import UserError
from pipelines.lineage.dvc import git
from pipelines.lineage.dvc.cache import cached_figures, cached_files
from pipelines.lineage.dvc.code import Code, folder_md5
from pipelines.lineage.dvc.commandline import program

LOCK, PARAMS = "dvc.lock", "params.yaml"
NO_ROLE = ("params", "work")  # options that name neither an input nor an output


class _Loader(yaml.CSafeLoader):
    """YAML 1.2, which DVC writes: 1e-05 is a number, and `no`, `on` and dates are words."""

    yaml_implicit_resolvers: dict[str, list[Any]] = {}  # noqa: RUF012  (filled below)


_SCALARS = (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(0|[1-9][0-9]*)", list("-+0123456789")),
    ("float", r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+", list("-+.0123456789")),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", list("-+.")),
)
for _tag, _form, _first in _SCALARS:
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"(?:{_form})\Z"), _first)


class Stage:
    """One entry of a lock. `program` is None where its command calls none of ours."""

    def __init__(self, name: str, values: Mapping[str, Any]) -> None:
        self.name, self.values = name, values
        self.program = program(values.get("cmd"))
        options = self.program.options.items() if self.program else ()
        self.roles = {posixpath.normpath(value): name for name, value in options if value and name not in NO_ROLE}
        self.root = self.program.root if self.program else None

    def entries(self, kind: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Its `deps` or `outs` by path. Those that DVC knows by something else than an md5 have no identity here."""
        for entry in self.values.get(kind) or ():
            if entry.get("md5"):
                yield posixpath.normpath(str(entry["path"])), entry

    def artifact(self, path: str, entry: Mapping[str, Any], measured: bool = False) -> model.Artifact:
        """An input or output, named by its role."""
        place = self._place(path)
        name = self.roles.get(path) or (place or path).removesuffix(".json" if self.program else "")
        size, count = entry.get("size"), entry.get("nfiles")
        return model.Artifact(name=name, md5=entry["md5"], path=place, size=size, files=count, measured=measured)

    def measured(self, path: str) -> bool:
        """Whether an output of ours holds durations."""
        role = self.roles.get(path)
        return role == "timing" or (role == "out" and self.program is not None and self.program.stage == "report")

    def parameters(self) -> dict[str, Any]:
        """Values by dotted name; of one student the merged ones, as its stage reads them."""
        values = dict(self._sections)
        if self.program and self.program.stage == "train_student":
            values["students"] = self._student(values.get("students") or {})
        for file, others in (self.values.get("params") or {}).items():
            if file != self._file:
                values |= {f"{file}:{key}": value for key, value in (others or {}).items()}
        if self.program is None:
            values["cmd"] = self.values.get("cmd")  # of a program that we do not know it is part of what it was told
        return dict(sorted(flat(values)))

    def pictures(self, path: str) -> str:
        """The place of given pictures, where prepare_data's parameters name one at or below `path`; else empty."""
        if self.program is None or self.program.stage != "prepare_data":
            return ""
        given = posixpath.normpath(str((self._sections.get("data") or {}).get("path") or "/"))
        return given if given == path or given.startswith(f"{path}/") else ""

    @property
    def _file(self) -> str:
        return self.program.options.get("params", PARAMS) if self.program else PARAMS

    @cached_property
    def _sections(self) -> dict[str, Any]:
        """The sections of the parameters file, of which a lock names some by dotted name."""
        nested: dict[str, Any] = {}
        for key, value in ((self.values.get("params") or {}).get(self._file) or {}).items():
            *above, last = str(key).split(".")
            at = nested
            for part in above:
                at = at.setdefault(part, {})
            at[last] = value
        return nested

    def _student(self, sections: Mapping[str, Any]) -> dict[str, Any]:
        """`common`, then the method's section, then its own: each overrides the one before, mappings key by key."""
        assert self.program
        method, steps = self.program.options.get("method", ""), self.program.options.get("student-steps", "")
        merged: dict[str, Any] = {}
        for section in ("common", method, f"{method}-{steps}"):
            for key, value in (sections.get(section) or {}).items():
                both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
                merged[key] = {**merged[key], **value} if both else value
        return {**merged, "method": method, "student_steps": int(steps) if steps.isdigit() else steps}

    def _place(self, path: str) -> str | None:
        """A path below the output root; of a program that is none of ours, below the project's folder."""
        if self.root not in (None, "."):
            return posixpath.relpath(path, self.root) if path.startswith(f"{self.root}/") else None
        return None if posixpath.isabs(path) or path.startswith("../") or "://" in path else path


class Lock:
    """The stages of one lock. `where` names it in errors."""

    def __init__(self, tree: git.Tree, where: str) -> None:
        self.tree, self.where = tree, where
        data = tree.read(LOCK)
        if data is None:
            hint = (
                "run `dvc repro`, or go to the folder of dvc.yaml"
                if isinstance(tree, git.Workspace)
                else ("`mcm lineage log` lists the revisions that have one")
            )
            raise UserError(f"{where}: no {LOCK} in this folder; {hint}")
        try:
            values = yaml.load(data, _Loader)
            stages = values.get("stages", {}) if "schema" in values else values
            self.stages = [Stage(str(name), entry) for name, entry in stages.items()]
            outs = [(s, path, entry) for s in self.stages for path, entry in s.entries("outs")]
            self.made = {path: stage.artifact(path, entry, stage.measured(path)) for stage, path, entry in outs}
        except (yaml.YAMLError, AttributeError, TypeError, KeyError, ValueError) as error:
            said = str(getattr(error, "problem", None) or error).splitlines()[0]
            raise UserError(f"{where}: {LOCK} is not a lock of DVC ({said}); `dvc repro` writes it anew") from None

    def records(self, run: model.Run, whole_folders: bool = False) -> list[model.Record]:
        """Partial records. `whole_folders`: do not name the files in folders of code, which takes longer."""
        try:
            return [self._record(stage, run, whole_folders) for stage in self.stages]
        except (AttributeError, TypeError, KeyError, ValueError) as error:
            said = str(error).splitlines()[0]
            raise UserError(f"{self.where}: {LOCK} is not a lock of DVC ({said}); `dvc repro` writes it anew") from None

    @cached_property
    def _code(self) -> Code:
        """What no stage made, as far as git has it."""
        deps = {path for stage in self.stages for path, _ in stage.entries("deps")}
        return Code(self.tree, [path for path in deps if path not in self.made and not self._below(path)])

    def _record(self, stage: Stage, run: model.Run, whole_folders: bool) -> model.Record:
        inputs: list[model.Artifact] = []
        files: dict[str, str] = {}
        for path, entry in stage.entries("deps"):
            if path in self.made:
                inputs.append(stage.artifact(path, entry, self.made[path].measured))
            elif self._below(path):
                inputs += self._parts(stage, path, entry)
            elif self._is_code(stage, path):
                size, count = entry.get("size") or 0, entry.get("nfiles") or 0
                files |= {path: entry["md5"]} if whole_folders else self._code.files(path, entry["md5"], size, count)
            else:
                inputs += self._data(stage, path, entry)
        outputs = tuple(self.made[path] for path, _ in stage.entries("outs"))
        parameters = stage.parameters()
        name, _, task = stage.name.partition("@")
        text = json.dumps([stage.name, stage.values], sort_keys=True, default=str)
        return model.Record(
            id=hashlib.md5(text.encode()).hexdigest(),
            run=run,
            stage=stage.program.stage if stage.program else re.sub(r"[^A-Za-z0-9_.-]", "_", name),
            task=stage.program.task if stage.program else task,
            code=model.Code(files=files or None),
            parameters=parameters,
            seeds={key: value for key, value in parameters.items() if key.rpartition(".")[2] == "seed"},
            inputs=tuple(inputs),
            outputs=outputs,
            metrics={key: value for made in outputs for key, value in cached_figures(made.md5).items()},
        )

    def _is_code(self, stage: Stage, path: str) -> bool:
        """Whether what no stage made is code: what git has; our programs' data is what their options name."""
        if stage.pictures(path) or path in stage.roles:
            return False
        return self._code.holds(path) or (stage.program is not None and stage.program.stage != "prepare_data")

    def _below(self, path: str) -> list[str]:
        """Outputs in a folder that a stage reads as a whole."""
        return [made for made in self.made if made.startswith(f"{path}/")]

    def _parts(self, stage: Stage, path: str, entry: Mapping[str, Any]) -> list[model.Artifact]:
        """The outputs in a folder, one by one, unless the folder held something else when the stage read it."""
        files: dict[str, str] | None = {}
        for made in self._below(path):
            md5 = self.made[made].md5
            inside = cached_files(md5) if md5.endswith(SUFFIX) else {"": md5}
            if inside is None or files is None:
                files = None  # not to be checked without the cache
            else:
                files |= {posixpath.join(made, name) if name else made: found for name, found in inside.items()}
        if files is not None and folder_md5(files, path) != entry["md5"]:
            return [stage.artifact(path, entry)]
        outs = [(made, self.made[made]) for made in self._below(path)]
        return [stage.artifact(made, {"md5": a.md5, "size": a.size, "nfiles": a.files}, a.measured) for made, a in outs]

    def _data(self, stage: Stage, path: str, entry: Mapping[str, Any]) -> list[model.Artifact]:
        """What came from outside. A folder for pictures counts where the parameters of prepare_data say so."""
        artifact = stage.artifact(path, entry)
        if stage.program is None or path in stage.roles:
            return [artifact]
        if not stage.pictures(path):
            return []
        # Its record calls the pictures `images` and counts every file; DVC's md5 leaves out what .dvcignore names.
        if stage.pictures(path) == path and not any(name.startswith(f"{path}/") for name in self._code.ignored):
            return [artifact.model_copy(update={"name": "images"})]
        return [artifact]
