"""What a task on Kubeflow Pipelines does around its stage: typed artifacts in and out, named by their content.

The stage itself runs as its own program, the same that DVC runs. Inputs are checked against the md5 that their maker
wrote; outputs get theirs. Where a store is given, training state lies there under a key that a retried task finds
again, outputs are kept there as DVC keeps them, and a task whose work was done before takes the result from there.
"""

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kfp.dsl import Artifact

from components.kubeflow.launch import elsewhere, launch
from components.kubeflow.lineage import lineage_in
from components.kubeflow.memo import LINEAGE, Memo, identity_of
from components.kubeflow.values import unpack
from components.runner import fingerprint, report_errors
from components.storage import Objects, delete, download, exists, is_remote, upload, write_bytes
from mcm.artifacts import CONFIG, file_md5, folder_md5, write_json
from mcm.errors import UserError

MD5 = "md5"  # the key of an artifact's content hash in its Kubeflow metadata


def run(
    stage: str,
    sections: Mapping[str, Any],
    inputs: Mapping[str, Artifact],
    outputs: Mapping[str, Artifact],
    store: str = "",
    options: Mapping[str, str] | None = None,
    work: str = "",
    key: Mapping[str, str] | None = None,
) -> None:
    """Run `python -m components.<stage>` on Kubeflow artifacts.

    `sections` are the sections of `params.yaml` that the stage reads; `inputs` and `outputs` are named as the program's
    options, and `options` are further ones. `work` is "state" where the program keeps state that a retry goes on from,
    "scratch" where it keeps what may be lost, and empty where it keeps nothing. `key` adds to what the result is a
    function of. Bad input is one line and exit status 2.
    """
    with report_errors(), tempfile.TemporaryDirectory(prefix=f"{stage}-") as folder, lineage_in(store) as lineage:
        params, options, scratch = unpack(dict(sections)), dict(options or {}), Path(folder)
        hashes = {name: checked(name, artifact, store) for name, artifact in inputs.items()}
        identity = identity_of(stage, params, hashes, {**options, **(key or {})})
        memo = Memo(store, stage, fingerprint(identity))
        made = {name: scratch / name for name in outputs}
        if (earlier := memo.recall(made)) is not None:
            record = lineage.taken(earlier.get(LINEAGE))
        else:
            if work:
                options["work"] = f"{store}/state" if store and work == "state" else str(scratch / "work")
            if elsewhere():
                _elsewhere(stage, params, inputs, made, options, store, memo.key)
            else:
                write_json(scratch / "params.json", params)
                words = {"params": str(scratch / "params.json"), **options}
                words |= {name: artifact.path for name, artifact in inputs.items()}
                launch(stage, as_options({**words, **{name: str(path) for name, path in made.items()}}))
            record = lineage.written()
            memo.keep(made, identity, record)
        publish(made, outputs, record)


def _elsewhere(
    stage: str,
    params: Mapping[str, Any],
    inputs: Mapping[str, Artifact],
    made: Mapping[str, Path],
    options: Mapping[str, str],
    store: str,
    key: str,
) -> None:
    """Run the program as a job on other nodes, which read and write by URI, since they share no disk with this one."""
    if not store:
        raise UserError(f"{stage}: its job and this task meet in the store; set the parameter 'store'")
    place = f"{store}/jobs/{stage}-{key[:12]}"
    write_bytes(f"{place}/params.json", json.dumps(params).encode())
    words = {"params": f"{place}/params.json", **options}
    for name, artifact in inputs.items():
        words[name] = artifact.uri
        if not is_remote(artifact.uri):  # the pipeline root may be a store that only Kubeflow's launcher reads
            words[name] = f"{place}/inputs/{name}"
            upload(Path(artifact.path), words[name])
    # A task that died between the job's end and its own finds the result: what readers look for is written last.
    if not all(exists(f"{place}/{name}/{CONFIG}") for name in made):
        launch(stage, as_options({**words, **{name: f"{place}/{name}" for name in made}}), key=key)
    for name, path in made.items():
        download(f"{place}/{name}", path)
    delete(place)


def publish(made: Mapping[str, Path], outputs: Mapping[str, Artifact], record: str | None) -> None:
    """Move what a program made to where Kubeflow wants it, and name it by its content and its lineage record."""
    for name, artifact in outputs.items():
        artifact.metadata[MD5] = content_md5(made[name])
        if record:
            artifact.metadata[LINEAGE] = record
        to = Path(artifact.path)
        to.parent.mkdir(parents=True, exist_ok=True)
        if to.is_dir():  # a retried task finds what its predecessor left
            shutil.rmtree(to)
        shutil.move(made[name], to)


def checked(name: str, artifact: Artifact, store: str = "") -> str:
    """The md5 of an input, which must be there and be what its maker made; a lost one is taken from the store."""
    path, expected = Path(artifact.path), str(artifact.metadata.get(MD5, ""))
    there = path.is_file() or (path.is_dir() and any(path.iterdir()))
    if not there:
        if not (store and expected and Objects(store).has(expected)):
            raise UserError(
                f"input '{name}': nothing at {artifact.uri}; if it was deleted behind a cache hit, "
                "submit again with --no-cache"
            )
        Objects(store).pull(expected, path)
    found = content_md5(path)
    if expected and found != expected:
        raise UserError(
            f"input '{name}': {artifact.uri} has md5 {found}, and {expected} was made; it was changed or cut off "
            "since, so submit again with --no-cache"
        )
    return found


def content_md5(path: Path) -> str:
    """DVC's md5 of a file or folder."""
    return folder_md5(path) if path.is_dir() else file_md5(path)


def as_options(values: Mapping[str, str]) -> list[str]:
    """`{"student_steps": "4"}` as `["--student-steps", "4"]`."""
    return [word for name, value in values.items() for word in (f"--{name.replace('_', '-')}", value)]
