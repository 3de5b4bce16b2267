"""`mcm pipeline run --local`: the whole graph through KFP's local runner."""

import argparse
import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from components.lineage.runs import PLACE, RUN, STORE
from components.runner import command
from pipelines.parameters import add_parameters, load

# What a task in a container needs to know of this machine to reach a gs:// store.
CREDENTIALS = "GOOGLE_APPLICATION_CREDENTIALS"
CLOUD = (CREDENTIALS, "GOOGLE_CLOUD_PROJECT", "STORAGE_EMULATOR_HOST")


@command
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="mcm pipeline run", description="Run the pipeline on this machine.")
    add_parameters(parser)
    parser.add_argument("--local", action="store_true", help="on this machine (a cluster: mcm pipeline submit)")
    parser.add_argument("--runner", choices=("subprocess", "container"), default="subprocess", help="(%(default)s)")
    parser.add_argument("--image", help="container: image to run in (default: the locked cpu image)")
    parser.add_argument("--network", help="container: network of the engine, such as host or none")
    parser.add_argument("--root", type=Path, default=Path("work/pipeline"), help="folder of runs (%(default)s)")
    parser.add_argument("--store", help="folder or gs:// prefix for state and results, '' for none (ROOT/store)")
    parser.add_argument("--dataset", help="URI of a data set to import instead of preparing one")
    parser.add_argument("--teacher", help="URI of a teacher to import instead of training one")
    parser.add_argument("--retries", type=int, default=0, help="of a failed task (%(default)s)")
    parser.add_argument("--verbose", action="store_true", help="show all that the tasks print, not only how they end")
    parser.add_argument("--json", action="store_true", help="print what was made as JSON, and nothing else on stdout")
    args = parser.parse_args(argv)
    from components.kubeflow.plan import check
    from components.storage import is_remote, listing_version
    from mcm.artifacts import read_config
    from mcm.errors import UserError
    from pipelines.preflight import KINDS

    if not args.local:
        raise UserError("mcm pipeline run: add --local for this machine; for a cluster it is mcm pipeline submit")
    params = load(args.params, args.changes)
    check(params)
    data, data_version = dict(params.get("data") or {}), ""
    if data.get("source") in ("folder", "archive") and data.get("path") and args.dataset is None:
        if not is_remote(data["path"]):
            data["path"] = str(Path(data["path"]).absolute())
        data_version = listing_version(data["path"])
    params["data"] = data
    root = args.root.absolute()
    store = str(root / "store") if args.store is None else args.store
    if store and not is_remote(store):
        store = str(Path(store).absolute())
        Path(store).mkdir(parents=True, exist_ok=True)
    given = {name: _uri(value) for name, value in (("dataset", args.dataset), ("teacher", args.teacher)) if value}
    for name, uri in given.items():
        if not is_remote(uri):
            read_config(Path(uri), KINDS[name], 1)
    folder = root / time.strftime("%Y%m%d-%H%M%S")
    told = {RUN: folder.name, PLACE: os.environ.get(PLACE) or (f"{store}/{STORE}" if store else str(folder / STORE))}
    root.mkdir(parents=True, exist_ok=True)
    mounts = {Path(place): "ro" for place in (data.get("path"), *given.values()) if place and not is_remote(place)}
    mounts |= {Path(place): "rw" for place in (root, store) if place and not is_remote(str(place))}
    from pipelines.local import run_local

    shown = sys.stderr if args.json else sys.stdout
    with _environment(told), _runner(args, mounts, told) as (runner, image), contextlib.redirect_stdout(shown):
        try:
            made = run_local(params, folder, store, data_version, image, runner, given, args.retries, args.verbose)
        except RuntimeError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(1)
    rows = [{"task": m.task, "output": m.output, "name": m.name, "md5": m.md5, "path": str(m.path)} for m in made]
    report = next((m.path for m in made if m.task == "report"), None)
    summary = json.loads((report / "summary.json").read_text()) if report else {}
    if args.json:
        print(json.dumps({"run": str(folder), "summary": summary, "artifacts": rows}, indent=2))
        return
    for name, value in summary.items():
        if name.endswith(".fid"):
            print(f"{name:<24} {value:.4g}")
    print(f"Open {report}/index.html" if report else f"Ended; see {folder}")


@contextlib.contextmanager
def _environment(told: dict[str, str]) -> Iterator[None]:
    """What tasks find in their environment beside ours."""
    before = dict(os.environ)
    os.environ.update(told)
    try:
        yield
    finally:
        for name in told:
            os.environ.pop(name) if name not in before else os.environ.update({name: before[name]})


@contextlib.contextmanager
def _runner(args: argparse.Namespace, mounts: dict[Path, str], told: dict[str, str]) -> Iterator[tuple[Any, str]]:
    """KFP's runner and the image it is told."""
    if args.runner == "subprocess":
        from kfp.local import SubprocessRunner

        yield SubprocessRunner(use_venv=False), "python"
        return
    from pipelines.docker_runner import container_runner
    from pipelines.images import image

    reference = args.image or image("cpu").reference
    env = {name: os.environ[name] for name in CLOUD if name in os.environ} | told | {"MCM_IMAGE": reference}
    if CREDENTIALS in env:
        mounts[Path(env[CREDENTIALS])] = "ro"
    with container_runner(mounts, env, network=args.network) as runner:
        yield runner, reference


def _uri(place: str) -> str:
    from components.storage import is_remote

    return place if is_remote(place) else str(Path(place).absolute())


if __name__ == "__main__":
    main()
