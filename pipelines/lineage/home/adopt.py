"""A pipeline run taken home: its outputs in DVC's workspace, `dvc.lock` as if `dvc repro` had made them here.

Everything that can be refused is refused before anything is changed. Then artifacts are brought to a folder of their
own, checked by md5, and only when all are there is the workspace changed. A journal says that this was begun, so that
the same command completes it after a kill.
"""

import contextlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import yaml

from components.lineage.record import Artifact, Record
from components.lineage.recorder import artifact
from components.lineage.runs import STORE
from components.lineage.store import keep, keep_run
from components.storage import Objects, is_remote
from mcm.errors import UserError
from pipelines.lineage.dvc.cache import cache_folder
from pipelines.lineage.dvc.git import experiments
from pipelines.lineage.graph import Graph
from pipelines.lineage.home.paramsfile import written
from pipelines.lineage.home.seed import OWN
from pipelines.lineage.home.workspace import BACK, DVC, LOCK, PARAMS, Scratch, dvc, git, md5_of, programs, write_params
from pipelines.lineage.kubeflow.wiring import PLACE, made_at, read_from, values_of
from pipelines.lineage.match import agrees
from pipelines.lineage.store.records import LineageStore

Key = tuple[str, str]  # stage and task
REVISION = "check out the revision that it was submitted from"


@dataclass(frozen=True)
class Output:
    """One artifact of the run, and where `dvc.yaml` has it."""

    path: Path
    made: Artifact
    by: str


@dataclass
class Plan:
    """What adopting a run will do. `here` are those outputs that the workspace holds already."""

    run: str
    experiment: str
    params: str  # the text of params.yaml
    root: Path  # the folder around the outputs
    outputs: list[Output]
    resumed: bool
    here: list[Output] = field(default_factory=list)

    @property
    def missing(self) -> list[Output]:
        return [output for output in self.outputs if output not in self.here]


class Adoption:
    """One run and this project. `plan` refuses what cannot be done, and changes nothing; `apply` does it."""

    def __init__(self, graph: Graph, stores: Sequence[LineageStore], experiment: str | None = None) -> None:
        self.graph, self.stores, self.experiment = graph, list(stores), experiment
        self.project = Path.cwd()
        self.scratch = Scratch(self.project)
        self.cache = Objects(cache_folder(self.project))

    def plan(self) -> Plan:
        """The checks. UserError, in one line, for the first that fails."""
        self._project()
        records = self._records()
        params = self._params(records)
        outputs, root = self._outputs(records, params)
        name = self.experiment or f"run-{self.graph.run[:15]}"
        plan = Plan(self.graph.run, name, params, root, outputs, self._resumed(params))
        self._experiment(plan)
        if not plan.resumed:
            self._uncommitted()
        self._code(records)
        plan.here = [output for output in outputs if md5_of(output.path) == output.made.md5]
        if not plan.resumed:
            self._kept(plan)
        self._there(plan)
        self._space(plan)
        return plan

    def apply(self, plan: Plan) -> None:
        """Bring the artifacts, and when all are here put them into place and let DVC say so."""
        for output in plan.missing:  # one that an earlier attempt brought is there
            incoming = self.scratch.incoming(output.path)
            if md5_of(incoming) != output.made.md5:
                self._source(output.made.md5).pull(output.made.md5, incoming)
        if not plan.resumed:
            self.scratch.begin(plan.run, Path(PARAMS).read_text())
        write_params(plan.params)
        for output in plan.missing:
            self.scratch.place(output.path)
        for node in self.graph.nodes.values():
            keep(plan.root / STORE, node.record)
        if self.graph.asked is not None:
            keep_run(plan.root / STORE, self.graph.asked)
        dvc("commit", "--force", DVC)  # saving locks too, but forgets a dvc.lock that git does not know yet
        dvc("exp", "save", "--force", "--name", plan.experiment, "--message", f"run {plan.run}, adopted")
        self.scratch.end()

    def _project(self) -> None:
        if not Path(DVC).is_file():
            raise UserError(f"{DVC}: not in this folder; go to the folder of the project")
        if git("rev-parse", "--verify", "--quiet", "HEAD") is None:
            raise UserError("no commit here yet, and experiments of DVC hang on one; `git commit` the project first")
        if not (self.project / ".dvc").is_dir():
            raise UserError("no .dvc here; `dvc init` makes this a project of DVC")

    def _records(self) -> dict[Key, Record]:
        """The execution of each stage. The run is of Kubeflow, and came to its end."""
        run = self.graph.name
        if self.graph.by != "kubeflow":
            raise UserError(f"{run}: not a pipeline run; what {self.graph.by} ran here needs no adopting")
        found: dict[Key, Record] = {}
        for node in self.graph.nodes.values():
            key = node.record.stage, node.record.task
            if key not in found or self._rank(node.record) > self._rank(found[key]):
                found[key] = node.record
        for record in found.values():
            if record.status != "succeeded":
                raise UserError(
                    f"run {run}: {record.name} {record.status}, so the run did not come to its end; "
                    "`mcm pipeline resume` goes on with it"
                )
        if ("report", "") not in found:
            raise UserError(
                f"run {run}: no report yet, so it has not come to its end; `mcm pipeline wait` waits for it"
            )
        return found

    def _rank(self, record: Record) -> tuple[bool, bool]:
        return record.status == "succeeded", record.run.id == self.graph.run

    def _params(self, records: Mapping[Key, Record]) -> str:
        """The text of params.yaml that the run was asked for. What every stage did, agrees with it."""
        if self.graph.asked is None:
            raise UserError(
                f"run {self.graph.name}: nothing says what it was asked for (run.json beside its records); name the "
                "store that has it with --store, or the server with --host"
            )
        asked = json.loads(json.dumps(self.graph.asked.params))
        for (stage, task), record in records.items():
            for name, value in values_of(asked, stage, task).items():
                if name != PLACE and not agrees(value, record.parameters.get(name)):
                    raise UserError(
                        f"run {self.graph.name}: its {record.name} is of run {record.run.id}, with {name} "
                        f"{record.parameters.get(name)!r} and not {value!r}; adopt that run, or submit without it"
                    )
        try:
            text = Path(PARAMS).read_text()
        except FileNotFoundError:
            raise UserError(f"{PARAMS}: not in this folder; `git checkout {PARAMS}` brings it back") from None
        data = asked.get("data") or {}
        if data.get("source") in OWN and data.get("path"):
            data["path"] = self._images(str(data["path"]), text, records.get(("prepare_data", "")))
        return written(text, asked)

    def _images(self, path: str, text: str, prepared: Record | None) -> str:
        """Where the run's images are here: where params.yaml has the same ones, else where the run had them."""
        with contextlib.suppress(yaml.YAMLError, AttributeError):
            own = str(yaml.safe_load(text)["data"].get("path") or "")
            read = next((a.md5 for a in prepared.inputs if a.name == "images"), None) if prepared else None
            if own and read and Path(own).exists() and artifact("images", Path(own)).md5 == read:
                return own
        with contextlib.suppress(ValueError):
            return PurePosixPath(path).relative_to(self.project.as_posix()).as_posix()
        return path

    def _outputs(self, records: Mapping[Key, Record], params: str) -> tuple[list[Output], Path]:
        """Each output at the path that dvc.yaml has for it. Its stages are those of the run, and read one another."""
        run, planned = self.graph.name, {(called.stage, called.task): called for called in programs(params)}
        for key in planned.keys() - records.keys():
            raise UserError(f"run {run}: has no {' '.join(key).strip()}, as {DVC} here has; {REVISION}")
        for key in records.keys() - planned.keys():
            raise UserError(f"run {run}: has {' '.join(key).strip()}, and {DVC} here has no such stage; {REVISION}")
        made = {made_at(*key, a.name): a.md5 for key, record in records.items() for a in record.outputs}
        found: list[Output] = []
        for key, called in planned.items():
            record = records[key]
            read = {a.name: a.md5 for a in record.inputs}
            for name, place in read_from(*key).items():
                if read.get(name) != made.get(place):
                    raise UserError(f"run {run}: {record.name} read another {name} than {place} of the run; {REVISION}")
            for output in record.outputs:
                if output.name not in called.options:
                    raise UserError(f"{DVC}: {record.name} has no --{output.name}, which the run made; {REVISION}")
                found.append(Output(Path(called.options[output.name]), output, record.name))
        return found, Path(min(called.root or "." for called in planned.values()))

    def _resumed(self, params: str) -> bool:
        """Whether this adoption was begun and cut off. UserError where it is another one that was."""
        begun = self.scratch.begun()
        if begun and begun.get("run") != self.graph.run:
            raise UserError(
                f"run {begun.get('run')}: its adoption was cut off; complete it with `mcm lineage adopt "
                f"{begun.get('run')}`, or go back with `{BACK} && rm -r .dvc/tmp/mcm-adopt`"
            )
        if begun and Path(PARAMS).read_text() not in (begun.get("before"), params):
            raise UserError(
                f"{PARAMS}: changed since the adoption of run {self.graph.run} was cut off; `git checkout {PARAMS}`, "
                "then the same command again"
            )
        return bool(begun)

    def _experiment(self, plan: Plan) -> None:
        if git("check-ref-format", f"refs/exps/{plan.experiment}") is None or "/" in plan.experiment:
            raise UserError(f"--name {plan.experiment}: no name for an experiment; use letters, digits and -")
        taken = {commit.experiment for commit in experiments()}
        if self.experiment in taken and not plan.resumed:
            raise UserError(f"--name {plan.experiment}: an experiment has that name already; choose another")

    def _uncommitted(self) -> None:
        changed = (git("status", "--porcelain", "--", PARAMS, LOCK) or "").splitlines()
        if changed:
            raise UserError(
                f"{changed[0][3:]}: has changes that are not committed, and adopting writes it; commit them, or keep "
                f"them as an experiment: `dvc exp save && git checkout {PARAMS} {LOCK}`"
            )

    def _code(self, records: Mapping[Key, Record]) -> None:
        """The run's code is the code that is here: dvc.lock will say that this code made those outputs."""
        for record in records.values():
            if record.code is None or record.code.files is None:
                raise UserError(
                    f"run {self.graph.name}: no record names the code of {record.name}; submit it again from here"
                )
            for name, md5 in record.code.files.items():
                if md5_of(Path(name)) != md5:
                    commit = record.code.commit
                    where = (
                        f"commit {commit[:12]}" if commit else f"image {record.image}" if record.image else "its image"
                    )
                    remedy = f"`git checkout {commit[:12]}`" if commit else "check out what the image was built from"
                    raise UserError(
                        f"{name}: is not the code that {record.name} of run {self.graph.name} ran, of {where}; {remedy}"
                    )

    def _kept(self, plan: Plan) -> None:
        """What is replaced can come back: DVC's cache has it."""
        for output in plan.missing:
            now = md5_of(output.path)
            if now is not None and not self.cache.has(now):
                raise UserError(
                    f"{output.path}: not in DVC's cache as it is, and adopting replaces it; `dvc commit`, or move it"
                )

    def _there(self, plan: Plan) -> None:
        for output in plan.missing:
            self._source(output.made.md5, output)

    def _source(self, md5: str, output: Output | None = None) -> Objects:
        """Where an artifact is taken from: DVC's cache, then the stores beside the lineage stores."""
        above = [str(store.place).rpartition("/")[0] or "." for store in self.stores]
        roots = [root if is_remote(root) else Path(root) for root in dict.fromkeys(above)]
        for objects in (self.cache, *map(Objects, roots)):
            if objects.has(md5):
                return objects
        what = f"{output.path}: {md5}, which {output.by} made," if output else f"{md5}:"
        named = ", ".join(map(str, roots)) or "no store"
        raise UserError(f"{what} is not in {named}; name the run's lineage store with --store, or run it again")

    def _space(self, plan: Plan) -> None:
        """Room for each artifact twice: in the workspace and in DVC's cache."""
        needed = 2 * sum(output.made.size or 0 for output in plan.missing)
        free = shutil.disk_usage(self.project).free
        if needed > free:
            raise UserError(
                f"{needed / 1e6:.0f} MB are needed here and {free / 1e6:.0f} MB are free; make room: "
                "`dvc gc --workspace` drops results of other runs"
            )
