"""What can be checked before a run is sent: all of it is, and what is missing is said at once, without the server."""

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from components.storage import exists, is_remote, listing_version, read_bytes
from mcm.artifacts import CONFIG
from mcm.errors import UserError

if TYPE_CHECKING:
    from pipelines.lineage.home.seed import Base, Piece

SAFE = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the same, ten times as fast where libyaml is there
OWN = {"folder": "a folder", "archive": "a file"}  # sources of `data` whose images the user brings
TPU = "google.com/tpu"
KINDS = {"dataset": "dataset", "teacher": "denoiser"}  # what an artifact's config.json says that it is


class NotReadyError(UserError):
    """What is missing, in `findings`; nothing was sent."""

    def __init__(self, findings: Sequence[str]) -> None:
        super().__init__(f"not ready, and nothing was sent: {'; and '.join(findings)}")
        self.findings = list(findings)


@dataclass(frozen=True)
class Request:
    """What the user asks to be run, as the options of `submit` and `schedule` have it."""

    profile: str | None
    package: Path | None
    params: Path
    changes: Sequence[str] = ()
    store: str = ""
    data: str | None = None
    dataset: str | None = None
    teacher: str | None = None
    image: str | None = None
    allow_unpinned: bool = False
    base: str | None = None


@dataclass
class Ready:
    """What is to be sent: the compiled documents, the values of their parameters, and what to copy to the store first:
    images, and the stages that a local revision has."""

    documents: list[Any] = field(default_factory=list)
    arguments: dict[str, Any] = field(default_factory=dict)
    profile: str = ""
    upload: tuple[Path, str] | None = None
    pieces: "list[Piece]" = field(default_factory=list)


class _Preflight:
    """The checks, in the order of what they need. Each one that fails is a finding, and the others go on."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.ready = Ready()
        self.findings: list[str] = []
        self.params: dict[str, Any] = {}
        self.mount: str | None = None
        self.base: Base | None = None
        self.asked: dict[str, Any] = {}  # the parameters while images are where the user has them
        self.images: frozenset[str] = frozenset()

    @contextlib.contextmanager
    def noting(self) -> Iterator[None]:
        try:
            yield
        except UserError as error:
            self.findings.append(str(error))

    def run(self) -> Ready:
        with self.noting():
            self.parameters()
        with self.noting():
            self.pipeline()
        with self.noting():
            self.store()
        if not self.request.dataset:
            with self.noting():
                self.data()
        for option in KINDS:
            with self.noting():
                self.given(option)
        if not self.findings:
            self.arguments()
            with self.noting():
                self.pieces()
        if self.findings:
            raise NotReadyError(self.findings)
        return self.ready

    def parameters(self) -> None:
        """Every section by the class of the stage that reads it, and every student."""
        from pipelines.parameters import changed, load

        if self.request.base is None:
            self.params = load(self.request.params, self.request.changes)
        else:
            from pipelines.lineage.home.seed import Base

            self.base = Base(self.request.base)
            self.params = changed(self.base.params(), self.request.changes)
        from components.kubeflow.plan import check  # late: it imports torch

        check(self.params)

    def pipeline(self) -> None:
        """A compiled file, or one compiled now for a profile; its images by digest, and made from this source."""
        from pipelines.compiler import compile_pipeline, read_compiled
        from pipelines.pipeline import Given
        from pipelines.profile import load_profile

        request = self.request
        if (request.profile is None) == (request.package is None):
            raise UserError("--profile or --package: give one; `mcm pipeline profiles` lists the profiles")
        given = Given(dataset=bool(request.dataset), teacher=bool(request.teacher))
        if request.package is not None:
            compiled = read_compiled(request.package, request.allow_unpinned)
            self.ready.profile, text, found = compiled.profile, compiled.text, compiled.images
            self._given_as_compiled(given, compiled.parameters)
        else:
            profile = load_profile(str(request.profile))
            self.ready.profile = profile.name
            self.mount = profile.volume.mount if profile.volume else None
            reference = self._image(profile.image)
            text, found = compile_pipeline(profile, reference, self.params, given), frozenset({reference})
        self.images = frozenset(found)
        self.ready.documents = list(yaml.load_all(text, Loader=SAFE))
        for task, chips in _chips(self.ready.documents[0]).items():
            if chips > 1:  # see docs/tpu.md
                raise UserError(
                    f"profile {self.ready.profile}: {task} would hold {chips} TPU chips and use one, at the price of "
                    "all: a chip takes a process of its own, and a TPU host's program is started as one process as "
                    "yet; choose a profile of one chip a stage, such as tpu-v6e-1"
                )
        if not request.allow_unpinned:
            for reference in sorted(found):
                _pullable(reference)

    def _image(self, target: str) -> str:
        """The image that was named, else the locked one of the profile."""
        from pipelines.compiler import PINNED
        from pipelines.images import image

        named = self.request.image
        if named:
            if not self.request.allow_unpinned and not PINNED.fullmatch(named):
                raise UserError(f"--image {named}: not by digest; name it as repository@sha256:... or --allow-unpinned")
            return named
        found = image(target)
        if not self.request.allow_unpinned:
            _pullable(found.reference)
        if not self.request.allow_unpinned and found.stale():
            raise UserError(
                f"image {found.reference}: not built from this source; build it again (mcm pipeline images --build), "
                "or pass --allow-unpinned"
            )
        return found.reference

    def _given_as_compiled(self, given: Any, parameters: Mapping[str, Any]) -> None:
        for option in KINDS:
            wants, has = f"{option}_uri" in parameters, getattr(given, option)
            if wants and not has:
                raise UserError(f"{self.request.package}: compiled for a given {option}; name it with --{option}")
            if has and not wants:
                raise UserError(
                    f"{self.request.package}: compiled without a given {option}; compile it with --given-{option}, "
                    "or give --profile and not --package"
                )

    def store(self) -> None:
        """There, and ours to read. What the pods may do there is for their own service account."""
        store = self.request.store
        if not store:
            raise UserError(
                "--store: not given; name a prefix such as gs://bucket/mcm, where checkpoints, data and results live"
            )
        if is_remote(store):
            exists(f"{store.rstrip('/')}/.mcm")  # says whether there is such a bucket and whether we may look
        elif not store.startswith("/"):
            raise UserError(f"--store {store}: neither a gs:// URI nor an absolute path in the pods")
        elif self.mount and not f"{store}/".startswith(f"{self.mount.rstrip('/')}/"):
            raise UserError(
                f"--store {store}: not on the volume of profile {self.ready.profile}, mounted at {self.mount}"
            )

    def data(self) -> None:
        """The user's own images: in a bucket, or here and then copied to the store under the hash of their content."""
        section = dict(self.params.get("data") or {})
        self.asked = {**self.params, "data": {**section, **({"path": self.request.data} if self.request.data else {})}}
        place = self.request.data or (section.get("path") if section.get("source") in OWN else None)
        version = ""
        if place and is_remote(place):
            version = listing_version(place)
        elif place:
            local = Path(place)
            if not local.exists():
                raise UserError(f"{place}: no such images here; --data takes a folder, an archive or a gs:// URI")
            if not is_remote(self.request.store):
                raise UserError(f"{place}: lies here, and pods read --store; give a store gs://..., or --data gs://...")
            version = listing_version(local)
            place = f"{self.request.store.rstrip('/')}/data/{version}/{local.resolve().name}"
            self.ready.upload = (local, place)
        if self.request.data and section.get("source") not in OWN:
            archive = self.ready.upload is not None and self.ready.upload[0].is_file()
            section["source"] = (
                "archive" if archive or str(place).endswith((".zip", ".tar", ".tgz", ".tar.gz")) else "folder"
            )
        if place:
            section["path"] = place
            self.params["data"] = section
        self.ready.arguments["data_version"] = version

    def given(self, option: str) -> None:
        """A given artifact is what it is given for."""
        uri = getattr(self.request, option)
        if not uri:
            return
        if not is_remote(uri):
            raise UserError(f"--{option} {uri}: pods cannot read it; give a gs:// URI")
        try:
            kind = json.loads(read_bytes(f"{uri.rstrip('/')}/{CONFIG}")).get("kind")
        except (ValueError, AttributeError):
            kind = None
        if kind != KINDS[option]:
            said = f"holds a {kind}" if kind else f"its {CONFIG} is not readable"
            raise UserError(f"--{option} {uri}: {said}, and a {KINDS[option]} is needed")
        self.ready.arguments[f"{option}_uri"] = uri.rstrip("/")

    def arguments(self) -> None:
        """Values for the pipeline's parameters: every section, whole."""
        from components.kubeflow.values import pack
        from components.runner import SECTIONS

        self.ready.arguments |= {name: pack(self.params.get(name) or {}) for name in SECTIONS}
        self.ready.arguments["store"] = self.request.store.rstrip("/")

    def pieces(self) -> None:
        """What the revision to start from has already, for tasks in images that hold the code which is here."""
        if self.base is None:
            return
        from pipelines.images import current
        from pipelines.lineage.home.seed import pieces

        for option in KINDS:
            if getattr(self.request, option):
                raise UserError(f"--from and --{option}: the revision has its own; give one")
        store, said = self.request.store, ""
        if not is_remote(store) and not Path(store).is_dir():
            raise UserError(f"--from, --store {store}: it is not mounted here; mount it, or give a store gs://...")
        reference, *more = sorted(self.images)
        if more:
            said = f"tasks run in {1 + len(more)} images"
        elif not self.request.allow_unpinned and not current(reference):
            said = f"image {reference} is not in images.lock.json as built from this source"
        if said:
            raise UserError(
                f"--from {self.request.base}: {said}, so no task would find what was made here; submit the locked "
                "image (mcm pipeline images), or without --from"
            )
        self.ready.pieces = pieces(self.base, self.asked, self.ready.arguments, reference)


def preflight(request: Request) -> Ready:
    """What is to be sent for a request; NotReadyError with all that is missing. Nothing is written anywhere."""
    return _Preflight(request).run()


def _chips(document: Mapping[str, Any]) -> dict[str, int]:
    """TPU chips that each task of a compiled pipeline asks for, for itself and for its job on all nodes."""
    from components.kubeflow.launch import JOB

    chips = {}
    for label, executor in document["deploymentSpec"]["executors"].items():
        container = executor.get("container", {})
        accelerator = container.get("resources", {}).get("accelerator", {})
        own = int(accelerator["resourceCount"]) if accelerator.get("resourceType") == TPU else 0
        for entry in container.get("env", []):
            if entry["name"] == JOB:
                job = json.loads(entry["value"])
                own += job["nodes"] * int(job["limits"].get(TPU, 0))
        chips[label.removeprefix("exec-")] = own
    return chips


def _pullable(reference: str) -> None:
    registry = reference.split("/")[0] if "/" in reference else ""
    if registry in ("localhost", "") or registry.startswith("127."):
        raise UserError(
            f"image {reference}: names no registry that a cluster can pull from; mcm pipeline images --build "
            "--registry REGISTRY --push, or pass --allow-unpinned where the nodes have it already"
        )
