"""Which run an execution belongs to, and where its record lies."""

import os
import secrets
import time
from pathlib import Path, PurePosixPath

from components.lineage.record import Run
from components.storage import is_remote

STORE = "lineage"  # the folder of records in an output root
PLACE = "MCM_LINEAGE"  # environment variable: the lineage store, or `off`
RUN = "MCM_RUN"  # environment variable: id of the pipeline run that a task belongs to
OFF = "off"
PARTS = ("students", "evaluations", "timings")  # folders of an output root that hold one artifact a model
EXPERIMENTS = ".dvc/tmp/exps"  # where DVC runs experiments of its queue, and removes them afterwards


def this_run() -> Run:
    """One pipeline run, one process of dvc, or one call of a program."""
    if run := os.environ.get(RUN):
        return Run(id=run, by="kubeflow")
    if "DVC_STAGE" in os.environ:
        return Run(id=_dvc_process(), by="dvc", experiment=os.environ.get("DVC_EXP_NAME") or None)
    return Run(id=f"mcm-{_stamp(time.time())}-{secrets.token_hex(3)}", by="mcm")


def _dvc_process() -> str:
    """An id that all stages have in common which one process of dvc runs."""
    import psutil

    above = psutil.Process().parents()
    found = [process for process in above if any(Path(word).name == "dvc" for word in _words(process)[:3])]
    process = found[0] if found else above[0]
    began = process.create_time()
    return f"dvc-{_stamp(began)}-{process.pid:x}"


def _words(process: "psutil.Process") -> list[str]:  # type: ignore[name-defined]  # noqa: F821
    import psutil

    try:
        return list(process.cmdline())
    except psutil.Error:
        return []


def _stamp(seconds: float) -> str:
    return time.strftime("%Y%m%d-%H%M%S", time.gmtime(seconds))


def output_root(out: Path | str) -> Path | str:
    """The folder that holds what a run makes (teacher/, students/, evaluations/, ...), from one of its outputs."""
    remote = is_remote(out)
    place = PurePosixPath(str(out).removeprefix("gs://")) if remote else PurePosixPath(Path(out).as_posix())
    folder = place.parent.parent if place.parent.name in PARTS else place.parent
    return f"gs://{folder}" if remote else Path(folder)


def store_of(out: Path | str) -> Path | str | None:
    """The lineage store of an output; None where no records are wanted."""
    named = os.environ.get(PLACE, "")
    if named == OFF:
        return None
    if named:
        return named if is_remote(named) else Path(named)
    root = output_root(out)
    if isinstance(root, str):
        return f"{root}/{STORE}"
    absolute = root.absolute()
    project, found, _ = absolute.as_posix().partition(f"/{EXPERIMENTS}/")
    if found:  # of this copy of the project nothing stays; its records lie where the project's own do
        copy = next(folder for folder in (absolute, *absolute.parents) if (folder / ".dvc").is_dir())
        return Path(project) / absolute.relative_to(copy) / STORE
    return root / STORE
