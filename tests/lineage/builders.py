"""Lineage records for tests: one of them, and a whole small pipeline whose hashes follow from what went in.

    a = chain("r1")
    b = chain("r2", parameters={"teacher.learning_rate": 0.001})
    graph(a), graph(b)

An output's md5 is a hash of its node's inputs, parameters, code files, libraries and hardware: a change of one of these
changes what lies downstream, and the same facts give the same bytes in every run.
"""

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from components.lineage.record import Artifact, Code, Cost, Hardware, Origin, Record, Run, RunRecord
from pipelines.lineage.graph import Graph, build

BEGUN = datetime(2026, 3, 1, 12, tzinfo=UTC)
STUDENTS = ("cd-1", "cd-2")
HARDWARE = Hardware(processor="cpu A", cores=2, threads=2, memory=8 << 30)
IMAGE = "ghcr.io/example/mcm@sha256:" + "1" * 64
COMMIT = "c" * 40
LIBRARIES = {
    "prepare_data": ("numpy", "pillow"),
    "train_teacher": ("numpy", "torch"),
    "estimate_variance": ("numpy", "torch"),
    "train_student": ("numpy", "torch"),
    "evaluate": ("numpy", "pillow", "scipy", "torch"),
    "report": ("jinja2", "pandas"),
}
FILES = {
    "prepare_data": ("mcm/data/prepare.py",),
    "train_teacher": ("mcm/steps.py", "mcm/training/loop.py", "mcm/methods/diffusion.py"),
    "estimate_variance": ("mcm/steps.py", "mcm/variance.py"),
    "train_student": ("mcm/steps.py", "mcm/training/loop.py", "mcm/methods/consistency.py"),
    "evaluate": ("mcm/steps.py", "mcm/samplers.py"),
    "report": ("components/report/render.py",),
}
PARAMETERS: dict[str, dict[str, Any]] = {
    "prepare_data": {"data.source": "emoji", "data.resolution": 32},
    "train_teacher": {
        "network.preset": "uvit_tiny",
        "schedule.noise_low": 32,
        "teacher.seed": 0,
        "teacher.iterations": 5000,
        "teacher.learning_rate": 0.002,
        "teacher.emas": [0.995],
    },
    "estimate_variance": {"variance.seed": 0, "variance.steps": 64},
    "train_student": {"students.seed": 1, "students.iterations": 400, "students.learning_rate": 0.0003},
    "evaluate": {"evaluation.seed": 0, "evaluation.samples": 512},
    "report": {},
}


def md5(*parts: Any, folder: bool = True) -> str:
    """The md5 of an invented artifact, a function of `parts`."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest() + (".dir" if folder else "")


def record(
    stage: str,
    task: str = "",
    *,
    run: str = "r1",
    by: str = "mcm",
    inputs: Mapping[str, str | Artifact] | None = None,
    outputs: Mapping[str, str | Artifact] | None = None,
    parameters: Mapping[str, Any] | None = None,
    libraries: Mapping[str, str] | None = None,
    files: Mapping[str, str] | None = None,
    hardware: Hardware | None = HARDWARE,
    begin: float = 0.0,
    seconds: float = 60.0,
    experiment: str | None = None,
    commit: str | None = COMMIT,
    **others: Any,
) -> Record:
    """One execution that began `begin` seconds after `BEGUN`. An md5 alone is an artifact of that name.

    Its id is a function of run, stage, task and begin; `others` are further fields of a Record, which win.
    """
    given = dict(parameters or {})
    values: dict[str, Any] = {
        "id": md5("id", run, stage, task, begin, folder=False),
        "run": Run(id=run, by=by, experiment=experiment),
        "stage": stage,
        "task": task,
        "component": "1.0.0",
        "code": Code(commit=commit, dirty=False, files=dict(files or {})),
        "image": IMAGE if by == "kubeflow" else "",
        "parameters": given,
        "seeds": {name: value for name, value in given.items() if name.rpartition(".")[2] == "seed"},
        "inputs": _artifacts(inputs or {}),
        "outputs": _artifacts(outputs or {}),
        "hardware": hardware,
        "libraries": {"python": "3.11.9", **(libraries or {})},
        "started": BEGUN + timedelta(seconds=begin),
        "ended": BEGUN + timedelta(seconds=begin + seconds),
        "cost": Cost(seconds=seconds, device_seconds=seconds * (hardware.devices if hardware else 1)),
    }
    return Record(**{**values, **others})


def _artifacts(named: Mapping[str, str | Artifact]) -> tuple[Artifact, ...]:
    return tuple(a if isinstance(a, Artifact) else Artifact(name=name, md5=a) for name, a in named.items())


def partial(full: Record, parameters: Collection[str] | None = None, files: Collection[str] | None = None) -> Record:
    """What a dvc.lock alone says of an execution: no times, hardware, libraries or metrics.

    `parameters` and `files` are the names that the lock knows; None is all of them.
    """
    code = (full.code and full.code.files) or {}
    kept = {name: value for name, value in code.items() if files is None or name in files}
    names = full.parameters if parameters is None else parameters
    return Record(
        id=md5("partial", full.id, folder=False),
        run=Run(id="HEAD", by="dvc"),
        stage=full.stage,
        task=full.task,
        code=Code(files=kept),
        parameters={name: value for name, value in full.parameters.items() if name in names},
        inputs=full.inputs,
        outputs=full.outputs,
    )


def chain(
    run: str = "r1",
    *,
    by: str = "mcm",
    students: Sequence[str] = STUDENTS,
    parameters: Mapping[str, Any] | None = None,
    libraries: Mapping[str, str | None] | None = None,
    files: Mapping[str, str | None] | None = None,
    hardware: Hardware = HARDWARE,
    image: str | None = None,
    images: str | None = None,
    teacher: str | None = None,
    salt: Mapping[str, str] | None = None,
    inert: Collection[str] = (),
    earlier: Iterable[Record] = (),
    begin: float = 0.0,
    **others: Any,
) -> list[Record]:
    """A whole pipeline in the order in which it ran: prepare_data, train_teacher, estimate_variance, train_student and
    evaluate for each of `students`, evaluate of the teacher, report.

    `parameters`, `libraries` (versions) and `files` (contents) change facts: `torch` at every node that has it,
    `torch@train_student cd-1` at one node, which it need not have had; None takes it away. `images` is the md5 of raw
    pictures, given to prepare_data; `teacher` that of an imported teacher, which is then not trained. `salt` makes a
    node give other bytes for no known reason: `{"train_teacher": "again"}`. `inert` facts leave the bytes alone:
    `torch`, `hardware`, or `torch@evaluate teacher`. What `earlier` executions made from the same facts is not made
    again: it is missing, as DVC leaves it out, or `cached_from` them by Kubeflow. `others` are fields of every Record.
    """
    changes = {"parameters": parameters or {}, "libraries": libraries or {}, "files": files or {}}
    done = {(r.name, a.name, a.md5): r for r in earlier for a in r.outputs if not a.measured}
    made: dict[str, Artifact] = {}  # by place below the output root
    records: list[Record] = []

    def step(stage: str, task: str, reads: Mapping[str, str], out: str, timing: str = "", **own: Any) -> None:
        key = f"{stage} {task}".strip()
        inputs = {
            name: made[place].model_copy(update={"name": name, "measured": place.startswith("timings/")})
            for name, place in reads.items()
        }
        facts = {
            "parameters": _changed(key, {**PARAMETERS[stage], **own}, changes["parameters"]),
            "libraries": _changed(key, dict.fromkeys(LIBRARIES[stage], "2.1.0"), changes["libraries"]),
            "files": {
                name: md5(name, text, folder=False)
                for name, text in _changed(key, dict.fromkeys(FILES[stage], ""), changes["files"]).items()
            },
        }
        acting = {
            kind: {name: value for name, value in named.items() if not {name, f"{name}@{key}"} & set(inert)}
            for kind, named in facts.items()
        }
        if not {"hardware", f"hardware@{key}"} & set(inert):
            acting["hardware"] = hardware.model_dump()
        read = {name: artifact.md5 for name, artifact in inputs.items() if not artifact.measured}
        content = md5(key, read, acting, (salt or {}).get(key, ""))
        measured = stage == "report"
        outputs = {"out": _artifact("out", md5(content, run) if measured else content, out, measured)}
        if timing:
            outputs["timing"] = _artifact("timing", md5(content, run, folder=False), timing, True)
        before = None if measured else done.get((key, "out", content))
        if before:
            outputs = {artifact.name: artifact for artifact in before.outputs}
        made.update({str(artifact.path): artifact for artifact in outputs.values()})
        if before and by != "kubeflow":
            return
        begun = begin + 100.0 * len(records)
        taken: dict[str, Any] = {}
        if before:
            taken = {
                "cached_from": Origin(run=before.run.id, record=before.id),
                "cost": Cost(seconds=0, device_seconds=0),
            }
        records.append(
            record(
                stage,
                task,
                run=run,
                by=by,
                inputs=inputs,
                outputs=outputs,
                **facts,
                hardware=hardware,
                begin=begun,
                metrics=_metrics(stage, content, run, students),
                **({"image": image} if image is not None else {}),
                **taken,
                **others,
            )
        )

    if images:
        made["images"] = Artifact(name="images", md5=images)
        step("prepare_data", "", {"images": "images"}, "dataset", **{"data.source": "folder"})
    else:
        step("prepare_data", "", {}, "dataset")
    if teacher:
        made["teacher"] = Artifact(name="teacher", md5=teacher, path="teacher")
    else:
        step("train_teacher", "", {"dataset": "dataset"}, "teacher")
    both = {"dataset": "dataset", "teacher": "teacher"}
    step("estimate_variance", "", both, "variance")
    for name in students:
        method, _, steps = name.partition("-")
        own = {"students.method": method, "students.student_steps": int(steps)}
        step("train_student", name, both, f"students/{name}", **own)
    shown = {"dataset": "dataset", "teacher": "teacher", "variance": "variance"}
    for name in ("teacher", *students):
        model = "teacher" if name == "teacher" else f"students/{name}"
        reads = {"dataset": "dataset", "model": model}
        if name == "teacher":
            reads["variance"] = "variance"
        else:
            shown[model] = model
        step("evaluate", name, reads, f"evaluations/{name}", f"timings/{name}.json")
        shown |= {f"evaluations/{name}": f"evaluations/{name}", f"timings/{name}": f"timings/{name}.json"}
    step("report", "", shown, "report")
    return records


def _changed(key: str, facts: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of one node after changes named `fact` or `fact@node`."""
    facts = dict(facts)
    for name, value in changes.items():
        fact, _, node = name.partition("@")
        if node == key or (not node and fact in facts):
            facts[fact] = value
    return {name: value for name, value in facts.items() if value is not None}


def _artifact(name: str, content: str, path: str, measured: bool = False) -> Artifact:
    folder = content.endswith(".dir")
    size = int(content[:4], 16)
    return Artifact(name=name, md5=content, path=path, size=size, files=3 if folder else None, measured=measured)


def _metrics(stage: str, content: str, run: str, students: Sequence[str]) -> dict[str, float]:
    """Figures that are a function of the bytes; the durations of a report are of the run as well."""
    share = int(content[:6], 16) / 16**6
    if stage in ("train_teacher", "train_student"):
        return {"loss": share / 10}
    if stage == "evaluate":
        return {"ddim-4.fid": 20 + 10 * share, "ddim-4.kid": share / 50}
    if stage == "report":
        rows = {f"{name}.ddim-4.fid": 20 + 10 * share for name in students}
        return {**rows, "teacher.ddim-4.seconds_per_image": int(md5(run)[:4], 16) / 16**4}
    return {}


def graph(records: Iterable[Record], earlier: Iterable[Record] = (), name: str = "") -> Graph:
    """The graph of a run, and of those `earlier` records that made its inputs, directly or not (reused)."""
    own = list(records)
    makers = {artifact.md5: r for r in earlier for artifact in r.outputs if r.status == "succeeded"}
    taken: dict[str, Record] = {}
    have = {artifact.md5 for r in own for artifact in r.outputs}
    wanted = [artifact.md5 for r in own for artifact in r.inputs]
    while wanted:
        maker = makers.get(wanted.pop())
        if maker and maker.id not in taken and not have & {artifact.md5 for artifact in maker.outputs}:
            taken[maker.id] = maker
            wanted += [artifact.md5 for artifact in maker.inputs]
    run = own[0].run if own else next(iter(taken.values())).run
    pairs = [(r, False) for r in own] + [(r, True) for r in taken.values()]
    return build(name or run.id, run.by, run.id, pairs)


def file_name(one: Record) -> str:
    """`train_student-cd-4-0123456789ab.json`."""
    return f"{'-'.join(filter(None, (one.stage, one.task)))}-{one.id[:12]}.json"


def write(store: Path, records: Iterable[Record], asked: RunRecord | None = None) -> list[Path]:
    """Write records as files of a lineage store, and with them what a pipeline run was asked for. Their paths."""
    paths = []
    for one in records:
        path = Path(store) / one.run.id / file_name(one)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(one.model_dump_json(indent=1))
        paths.append(path)
    if asked:
        path = Path(store) / asked.run.id / "run.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(asked.model_dump_json(indent=1))
    return paths
