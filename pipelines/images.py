"""The images that tasks run in: what goes into one, how it is built, and the lock file that names each by digest.

`images.lock.json` has a row for each target of the Containerfile. The source hash in it is over the Containerfile,
the target's requirements and the code that goes in. Whatever names an image in turn (the lock itself, component.yaml,
compiled pipelines) is no part of it, and no part of the image.
"""

import hashlib
import json
import os
import re
import shlex
import subprocess
import tempfile
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pipelines
from mcm.artifacts import write_json
from mcm.config import Config, suggest
from mcm.errors import UserError

ROOT = Path(next(iter(pipelines.__path__))).parent
LOCK = ROOT / "images.lock.json"
TARGETS = ("cpu", "cuda", "tpu")
ENGINES = ("podman", "docker")
NAME = "multistep-consistency"
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
# The time that images and their files bear. A constant, so that equal sources give an equal digest.
EPOCH = 1767225600  # 2026-01-01T00:00:00Z

PACKAGES = ("components", "mcm", "pipelines", "presets")
FILES = ("LICENSE", "params.yaml", "pyproject.toml", "containers/install.sh", "containers/requirements-build.txt")
EXCLUDED = (
    "**/__pycache__",
    "**/README.md",
    "components/*/component.yaml",
    "components/versions.lock.json",
    "pipelines/compiled",
)


class Image(Config):
    """One row of the lock. Without a digest it names an image that is yet to be built."""

    target: str
    repository: str
    digest: str | None = None
    source: str | None = None
    base: str | None = None

    @property
    def pinned(self) -> bool:
        """Whether there is a digest."""
        return self.digest is not None

    @property
    def reference(self) -> str:
        """`repository@sha256:...`; UserError where there is no digest."""
        if self.digest is None:
            raise UserError(
                f"{LOCK.name}: no digest for the {self.target} image; build it with mcm pipeline images --build "
                f"--target {self.target} --registry REGISTRY --push, or name one with --image"
            )
        return f"{self.repository}@{self.digest}"

    @property
    def local(self) -> bool:
        """Whether it is on the machine that built it alone, where no cluster can pull it."""
        return self.repository.split("/")[0] == "localhost"

    def stale(self) -> bool:
        """Whether the tree holds other sources than those that it was built from."""
        return self.source != source_hash(self.target)

    def state(self) -> str:
        """In one word or two: current, stale, not built."""
        return "not built" if not self.pinned else "stale" if self.stale() else "current"


def image(target: str) -> Image:
    """The row of a target. UserError for an unknown target or a lock that is not one."""
    if target not in TARGETS:
        raise UserError(f"image '{target}': no such target of the Containerfile; {suggest(target, list(TARGETS))}")
    try:
        rows = json.loads(LOCK.read_text())
    except FileNotFoundError:
        rows = {}
    except ValueError as error:
        raise UserError(f"{LOCK}: not readable as JSON ({error}); restore it, or build the images again") from None
    row = rows.get(target, {}) if isinstance(rows, dict) else rows
    if not isinstance(row, Mapping):
        raise UserError(f"{LOCK}, '{target}': holds {row!r}, and a mapping is needed; build the image again")
    found = Image.parse({"repository": f"localhost/{NAME}-{target}", **row, "target": target}, f"{LOCK}, '{target}'")
    if found.digest is not None and not DIGEST.fullmatch(found.digest):
        raise UserError(f"{LOCK}, '{target}': '{found.digest}' is no digest; build the image again")
    return found


def current(reference: str) -> bool:
    """Whether an image is one of the lock, and holds the code that is here."""
    rows = [image(target) for target in TARGETS]
    return any(row.pinned and row.reference == reference and not row.stale() for row in rows)


def record(built: Image) -> None:
    """Put one row into the lock, atomically; the other rows stay."""
    rows = {target: image(target) for target in TARGETS} | {built.target: built}
    kept = {target: row.model_dump(exclude={"target"}) for target, row in rows.items() if row.pinned}
    write_json(LOCK, kept)


def sources(target: str) -> Iterator[Path]:
    """Every file of the tree that the image of a target is made from."""
    yield from (ROOT / name for name in ("Containerfile", *FILES, f"containers/requirements-{target}.txt"))
    left_out = {path for pattern in EXCLUDED for path in ROOT.glob(pattern)}
    for package in PACKAGES:
        for file in (ROOT / package).rglob("*"):
            if file.is_file() and left_out.isdisjoint((file, *file.parents)):
                yield file


def contents(target: str) -> dict[str, bytes]:
    """What the image of a target is made from: bytes by name."""
    try:
        return {file.relative_to(ROOT).as_posix(): file.read_bytes() for file in sorted(sources(target))}
    except FileNotFoundError as error:
        raise UserError(f"{error.filename}: not here; images are built and checked in a clone of the project") from None


def source_hash(target: str) -> str:
    """sha256 over the names and contents of `sources`."""
    return hash_of(contents(target))


def hash_of(files: Mapping[str, bytes]) -> str:
    """sha256 over names and contents."""
    lines = (f"{name}\0{hashlib.sha256(content).hexdigest()}\n" for name, content in sorted(files.items()))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def build(
    target: str,
    engine: str = "podman",
    registry: str = "localhost",
    base: str | None = None,
    network: str | None = None,
    push: bool = False,
) -> Image:
    """Build an image, push it where asked to, and put it into the lock.

    It is built from a copy of its sources: what is edited meanwhile, files beside them and their modes are not in it.
    `base` takes the place of the Containerfile's. `PIP_INDEX_URL`, `PIP_CERT` (a file) and `PIP_FIND_LINKS` (a folder
    that has the CPU build of torch) reach the build when they are in the environment. What the engine prints goes to
    stderr. The digest is that of the registry when the image is pushed, and else that of the engine's own store.
    """
    if push and registry == "localhost":
        raise UserError("--push: no registry; name one, as --registry europe-docker.pkg.dev/PROJECT/REPOSITORY")
    files = contents(target)
    row = Image(target=target, repository=f"{registry.rstrip('/')}/{NAME}-{target}", source=hash_of(files))
    tagged = f"{row.repository}:{version()}"
    with tempfile.TemporaryDirectory() as folder:
        said, context = Path(folder) / "said", Path(folder) / "context"
        for name, content in files.items():
            (context / name).parent.mkdir(parents=True, exist_ok=True)
            (context / name).write_bytes(content)
        for path in context.rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)
        for command in commands(row, engine, base, network, push, said, context):
            run(command)
        if engine == "docker":
            digest = json.loads(said.read_text()).get("containerimage.digest", "")
        elif push:
            digest = said.read_text().strip()
        else:
            digest = run([engine, "image", "inspect", "--format", "{{.Digest}}", tagged], read=True)
    if not DIGEST.fullmatch(digest):
        raise UserError(f"{engine}: gave no digest for {tagged}; push it (--push), or build it with podman")
    if base is not None and "@" not in base and engine == "podman":
        base = f"{base}@{run([engine, 'image', 'inspect', '--format', '{{.Digest}}', base], read=True)}"
    built = row.model_copy(update={"digest": digest, "base": base or default_base()})
    record(built)
    return built


def commands(
    row: Image, engine: str, base: str | None, network: str | None, push: bool, said: Path, context: Path
) -> list[list[str]]:
    """What builds and pushes, as command lines of the engine; they leave the digest of what is pushed in `said`."""
    tagged = f"{row.repository}:{version()}"
    options = ["--file", str(context / "Containerfile"), "--target", row.target]
    options += ["--build-arg", f"VERSION={version()}", "--build-arg", f"SOURCE={row.source}"]
    if base is not None:
        options += ["--build-arg", f"BASE={base}"]
    if network is not None:
        options += ["--network", network]
    if index := os.environ.get("PIP_INDEX_URL"):
        options += ["--build-arg", f"PIP_INDEX_URL={index}"]
    if certificate := os.environ.get("PIP_CERT"):
        options += ["--secret", f"id=ca,src={certificate}"]
    wheels = os.environ.get("PIP_FIND_LINKS")
    if wheels and Path(wheels).is_dir():
        options += ["--build-context", f"wheels={wheels}"]
    if engine == "docker":
        output = f"type=image,name={tagged},rewrite-timestamp=true,push={str(push).lower()}"
        options += ["--build-arg", f"SOURCE_DATE_EPOCH={EPOCH}", "--provenance=false", "--output", output]
        return [["docker", "buildx", "build", *options, "--metadata-file", str(said), str(context)]]
    options += ["--timestamp", str(EPOCH), "--identity-label=false", "--tag", tagged]
    build_it = [engine, "build", *options, str(context)]
    return [build_it, [engine, "push", "--digestfile", str(said), tagged]] if push else [build_it]


def run(command: Sequence[str], read: bool = False) -> str:
    """Run an engine's command and give its stdout, if it is to be read. UserError in one line where it fails."""
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE if read else 2, text=True, check=True)
    except FileNotFoundError:
        raise UserError(f"{command[0]}: not installed; install it, or name another with --engine") from None
    except subprocess.CalledProcessError as error:
        shown = shlex.join(command[:3])
        raise UserError(f"{shown}: failed with status {error.returncode}; its last lines say why") from None
    return (done.stdout or "").strip()


def version() -> str:
    """The project's version, as in pyproject.toml."""
    return str(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"])


def default_base() -> str:
    """The base image that the Containerfile names."""
    found = re.search(r"^ARG BASE=(\S+)$", (ROOT / "Containerfile").read_text(), re.MULTILINE)
    assert found, "Containerfile: no ARG BASE"
    return found[1]
