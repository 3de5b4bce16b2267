"""What a local revision has already, put where the tasks of a cluster look for it: `mcm pipeline submit --from REV`.

A task asks the store for earlier work by what its result is a function of (`components.kubeflow.memo`). So for each
stage of the revision's `dvc.lock` the same is worked out here, its outputs are copied from DVC's cache to the store,
and with them the memo under which the task will ask. What would not be the same work is left out, with the reason.
"""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from components.kubeflow.memo import Memo, identity_of
from components.kubeflow.values import pack, unpack
from components.lineage.record import Record, Run
from components.lineage.recorder import flat
from components.lineage.runs import STORE
from components.lineage.store import keep
from components.runner import fingerprint
from components.storage import Objects, exists
from mcm.artifacts import file_md5
from mcm.errors import UserError
from pipelines.images import ROOT
from pipelines.lineage.dvc.cache import cache_folder
from pipelines.lineage.dvc.code import folder_md5
from pipelines.lineage.dvc.history import WORKSPACE, git
from pipelines.lineage.dvc.lock import LOCK, PARAMS, Lock
from pipelines.lineage.kubeflow.wiring import SECTIONS, made_at, read_from, values_of
from pipelines.lineage.match import best
from pipelines.lineage.options import USUAL
from pipelines.lineage.store.records import LineageStore

OWN = ("folder", "archive")  # sources whose images the user brings


@dataclass(frozen=True)
class Piece:
    """One stage of the run. `reason`: why its result is not there yet; empty where it is."""

    stage: str
    task: str
    reason: str = ""
    outputs: Mapping[str, str] | None = None  # md5 by name
    identity: Mapping[str, Any] | None = None
    record: Record | None = None  # of the execution at home

    @property
    def name(self) -> str:
        return f"{self.stage} {self.task}".strip()


class Base:
    """A git revision, a DVC experiment or `workspace`, to start from. UserError where there is none of that name."""

    def __init__(self, revision: str) -> None:
        self.revision = revision
        self.tree: git.Tree = git.Workspace()
        if revision != WORKSPACE:
            commit = git.find_commit(revision)
            commit = commit or next((c.id for c in git.experiments() if c.experiment == revision), None)
            if commit is None:
                raise UserError(
                    f"--from {revision}: no git revision and no DVC experiment has that name; `git log` and "
                    "`dvc exp list` show them"
                )
            self.tree = git.Revision(commit)

    def params(self) -> dict[str, Any]:
        """The sections of its params.yaml."""
        from components.runner import read_params

        text = self.tree.read(PARAMS)
        if text is None:
            raise UserError(f"--from {self.revision}: it has no {PARAMS} here; name a revision of this project")
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / PARAMS
            file.write_bytes(text)
            try:
                return read_params(file)
            except UserError as error:
                raise UserError(f"--from {self.revision}: {str(error).replace(str(file), PARAMS)}") from None

    def records(self) -> list[Record]:
        """What its dvc.lock says of each stage."""
        return Lock(self.tree, f"--from {self.revision}").records(Run(id=WORKSPACE, by="dvc"))


def pieces(base: Base, asked: Mapping[str, Any], sent: Mapping[str, Any], image: str) -> list[Piece]:
    """Every stage of the run that keeps a memo, makers first, and whether the revision has its result.

    `asked` are the run's sections of params.yaml, where `data.path` is a place here; `sent` are the run's parameters as
    they are sent; `image` is the reference of its tasks' image.
    """
    from components.kubeflow.plan import students

    told = unpack(dict(sent))
    plan = {student["name"]: unpack(pack(student)) for student in students(told)}
    return list(_Pieces(base, asked, told, plan, image).all())


class _Pieces:
    def __init__(
        self, base: Base, asked: Mapping[str, Any], sent: Mapping[str, Any], plan: Mapping[str, Any], image: str
    ) -> None:
        self.base, self.asked, self.sent, self.plan, self.image = base, asked, sent, plan, image
        self.known = {(record.stage, record.task): record for record in base.records()}
        self.cache = Objects(cache_folder(Path.cwd()))
        self.stores = [LineageStore(place) for place in USUAL if Path(place).is_dir()]
        self.taken: dict[str, str] = {}  # md5 of what is taken, by its place

    def all(self) -> Iterator[Piece]:
        wanted = [("prepare_data", ""), ("train_teacher", ""), ("estimate_variance", ""), ("evaluate", "teacher")]
        for stage, task in [*wanted, *((stage, name) for name in self.plan for stage in ("train_student", "evaluate"))]:
            record = self.known.get((stage, task))
            if record is None:
                yield Piece(stage, task, f"{LOCK} of {self.base.revision} has no such stage")
                continue
            reason = self._parameters(record) or self._inputs(record) or self._code(record) or self._missing(record)
            if not reason:
                self.taken |= {made_at(stage, task, output.name): output.md5 for output in record.outputs}
            outputs = {output.name: output.md5 for output in record.outputs}
            yield Piece(stage, task, reason, outputs, self._identity(record), best(record, self.stores))

    def _identity(self, record: Record) -> dict[str, Any]:
        """What the task will say that its result is a function of: see the `component.py` of each stage."""
        stage, task = record.stage, record.task
        params, options = {section: self.sent[section] for section in SECTIONS[stage]}, dict[str, str]()
        if stage == "prepare_data":
            options = {"data_version": self.sent["data_version"]}
        elif stage == "evaluate":
            options = {"name": task}
        elif stage == "train_student":
            student = self.plan[task]
            params = {"students": student["parameters"]}
            options = {"method": student["method"], "student_steps": str(student["student_steps"])}
        read = read_from(stage, task)
        inputs = {artifact.name: artifact.md5 for artifact in record.inputs if artifact.name in read}
        return {**identity_of(stage, params, inputs, options), "image": self.image}

    def _parameters(self, record: Record) -> str:
        """A parameter that is not what it was. What is told apart from its default alone is no difference."""
        now, then = values_of(self.asked, record.stage, record.task), record.parameters
        if record.stage == "train_student":
            now, then = _resolved(now), _resolved(then)
        for key in sorted({*then, *now}):
            if then.get(key) != now.get(key):
                return f"{key} was {then.get(key)!r} at {self.base.revision} and is {now.get(key)!r} now"
        return ""

    def _inputs(self, record: Record) -> str:
        """An input that the run will not have, or images that nobody knows to be the same."""
        given = {artifact.name: artifact.md5 for artifact in record.inputs}
        for name, place in read_from(record.stage, record.task).items():
            if self.taken.get(place) is None or self.taken[place] != given.get(name):
                return f"it reads {place}, which is made anew"
        data = self.asked.get("data") or {}
        if record.stage != "prepare_data" or data.get("source") not in OWN:
            return ""
        images = PurePosixPath(str(data.get("path")))
        for artifact in record.inputs:
            folder = images if artifact.name == "images" else PurePosixPath(artifact.name)
            if folder in (images, *images.parents):
                same = tree_md5(folder.as_posix()) == artifact.md5
                return "" if same else f"the images in {folder} are not those of {self.base.revision}"
        return f"its images, {images}, are no dependency in {LOCK}, so that nobody knows whether they are the same"

    def _code(self, record: Record) -> str:
        """A file of the stage's code that is not what it was. The image holds what this program was started from."""
        for name, md5 in ((record.code and record.code.files) or {}).items():
            if tree_md5(name, ROOT) != md5:
                return f"{name} is not what it was at {self.base.revision}"
        return ""

    def _missing(self, record: Record) -> str:
        for output in record.outputs:
            if not self.cache.has(output.md5):
                return f"its {output.name} ({output.md5}) is not in DVC's cache; `dvc fetch --all-commits` brings it"
        return ""


def send(found: Sequence[Piece], store: str) -> int:
    """Copy what the store lacks: outputs, records of their making, and the memos, each after what it names.

    How many stages were not there before. Killed and called again, it goes on.
    """
    objects, cache, sent = Objects(store), Objects(cache_folder(Path.cwd())), 0
    for piece in found:
        if piece.reason or piece.outputs is None or piece.identity is None:
            continue
        memo = Memo(store, piece.stage, fingerprint(piece.identity))
        if exists(memo.uri) and all(objects.has(md5) for md5 in piece.outputs.values()):
            continue
        with tempfile.TemporaryDirectory(prefix="mcm-from-") as folder:
            made = {name: Path(folder) / name for name in piece.outputs}
            for name, md5 in piece.outputs.items():
                cache.pull(md5, made[name])
            record = keep(f"{store}/{STORE}", piece.record) if piece.record else None
            memo.keep(made, piece.identity, record)
        sent += 1
    return sent


def tree_md5(path: str, root: Path = Path()) -> str | None:
    """DVC's md5 of a dependency as it is below `root`: of a file, or a folder without what DVC ignores; or None."""
    if (root / path).is_file():
        return file_md5(root / path)
    if not (root / path).is_dir():
        return None
    import pathspec

    from pipelines.lineage.dvc.code import BUILT_IN, IGNORE

    lines = (root / IGNORE).read_text().splitlines() if (root / IGNORE).is_file() else []
    spec = pathspec.GitIgnoreSpec.from_lines([*BUILT_IN, *lines])
    names = [file.relative_to(root).as_posix() for file in (root / path).rglob("*") if file.is_file()]
    return folder_md5({name: file_md5(root / name) for name in names if not spec.match_file(name)}, path)


def _resolved(values: Mapping[str, Any]) -> dict[str, Any]:
    """All parameters of one student by dotted name, with those that have their default."""
    from components.students import config_type

    own: dict[str, Any] = {}
    for name, value in values.items():
        *above, last = name.split(".")[1:]
        place = own
        for word in above:
            place = place.setdefault(word, {})
        place[last] = value
    identity = {name: own.pop(name, None) for name in ("method", "student_steps")}
    try:
        kind = config_type(str(identity["method"]))
        return dict(flat({"students": {**kind.parse(own, "students").resolved(), **identity}}))
    except UserError:  # keys of another time
        return dict(values)
