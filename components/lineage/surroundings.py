"""What a process can say of where it runs: machine, git checkout, packages, files of the project that it loaded."""

import functools
import hashlib
import importlib.metadata
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import components
import mcm
from components.lineage.record import Code, Hardware
from mcm.artifacts import file_md5

# Modules that carry bytes from place to place and do not make them: a change there is not the cause of a result.
PLUMBING = (
    "components/kubeflow/",
    "components/lineage/",
    "components/places.py",
    "components/runner.py",
    "components/storage/",
)
ENTRANCES = ("__main__.py", "component.py")
READ = (".csv", ".j2")  # what a stage reads from its own folder beside code
# DVC rewrites its lock file while it runs the stages, so it says nothing about the code.
TREE = (":/", ":(top,exclude)dvc.lock")


def hardware() -> Hardware:
    """This machine, as far as torch, where it was loaded, knows it."""
    torch: Any = sys.modules.get("torch")
    cuda = torch is not None and torch.cuda.is_available()
    return Hardware(
        processor=processor(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        threads=torch.get_num_threads() if torch is not None else None,
        memory=memory(),
        accelerators=tuple(torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count())) if cuda else (),
        devices=int(os.environ.get("WORLD_SIZE", 1)),
    )


def processor() -> str | None:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or None


def memory() -> int | None:
    """Bytes of the machine's memory."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def libraries() -> dict[str, str]:
    """Version of Python and of each package that this process has loaded, without this project."""
    loaded = {file for module in tuple(sys.modules.values()) if (file := getattr(module, "__file__", None))}
    roots = {name.partition(".")[0] for name in tuple(sys.modules)}
    names = set()
    for root in roots:
        owners = _owners().get(root, [])
        # A namespace such as `google` has many owners: those count of which a file was loaded.
        names |= {owner for owner in owners if len(owners) == 1 or _files(owner) & loaded}
    versions = {name.lower(): importlib.metadata.version(name) for name in names - {"multistep-consistency"}}
    return {"python": platform.python_version(), **dict(sorted(versions.items()))}


def _files(package: str) -> set[str]:
    return {str(file.locate()) for file in importlib.metadata.files(package) or ()}


@functools.cache
def _owners() -> dict[str, list[str]]:
    return dict(importlib.metadata.packages_distributions())


def code(stage: str) -> Code:
    """The project's code that this process loaded for a stage, and the checkout that it lies in."""
    head, dirty = checkout()
    return Code(commit=head, dirty=dirty, files={name: file_md5(path) for name, path in sorted(_loaded(stage))})


def _loaded(stage: str) -> Iterator[tuple[str, Path]]:
    for package in (mcm, components):
        root = Path(next(iter(package.__path__))).parent
        for name, module in tuple(sys.modules.items()):
            file = getattr(module, "__file__", None)
            if name.partition(".")[0] != package.__name__ or not file:
                continue
            place = Path(file).relative_to(root).as_posix()
            if not place.startswith(PLUMBING) and not place.endswith(ENTRANCES):
                yield place, Path(file)
    folder = Path(next(iter(components.__path__))) / stage
    for path in folder.rglob("*"):
        if path.suffix in READ:
            yield path.relative_to(folder.parent.parent).as_posix(), path


def code_md5() -> str:
    """md5 over the files of the packages `mcm` and `components` that a stage's result can depend on."""
    total = hashlib.md5()
    for package in (mcm, components):
        root = Path(next(iter(package.__path__)))
        for file in sorted(root.rglob("*")):
            if file.suffix in (".py", *READ):
                total.update(f"{file.relative_to(root.parent).as_posix()}\0".encode() + file.read_bytes())
    return total.hexdigest()


def checkout(file: Path = Path(__file__)) -> tuple[str | None, bool | None]:
    """The commit of the checkout that holds `file`, and whether tracked files differ; None where there is none."""
    here = file.resolve()
    # An installed package may lie inside somebody else's repository, whose commit says nothing about it.
    if _git(here.parent, "ls-files", "--error-unmatch", here.name) is None:
        return None, None
    changes = _git(here.parent, "status", "--porcelain", "--untracked-files=no", "--", *TREE)
    return _git(here.parent, "rev-parse", "HEAD"), None if changes is None else bool(changes)


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
