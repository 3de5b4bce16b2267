"""How the exports name things: each name is a function of content, so that two exports of one run say the same."""

import contextlib
import importlib.metadata
from collections.abc import Iterator
from urllib.parse import quote

from components.lineage.record import Artifact, Record
from mcm.errors import UserError
from pipelines.lineage.graph import Graph

HOME = "urn:multistep-consistency"  # this project has no address of its own on the web
EXTRA = "multistep-consistency[lineage]"


@contextlib.contextmanager
def needs_extra() -> Iterator[None]:
    """Turn a package that is not installed into one line that says how to install it."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        raise UserError(f"{package} is not installed, and this needs it; pip install '{EXTRA}'") from None


def producer() -> str:
    """URI of this program and its version."""
    return f"{HOME}:{importlib.metadata.version('multistep-consistency')}"


def commit_uri(commit: str) -> str:
    """A git commit as its Software Heritage identifier, which needs no address of a repository."""
    return f"swh:1:rev:{commit}"


def image_uri(image: str) -> str:
    """An image reference as a package URL."""
    repository, _, digest = image.partition("@")
    name = repository.rpartition("/")[2].partition(":")[0]
    version = f"@{quote(digest, safe='')}" if digest else ""
    return f"pkg:oci/{quote(name)}{version}?repository_url={quote(repository, safe='')}"


def library_uri(name: str, version: str) -> str:
    """A Python package, or Python itself, as a package URL."""
    kind = "generic" if name == "python" else "pypi"
    return f"pkg:{kind}/{quote(name.lower().replace('_', '-'))}@{quote(version)}"


def place(node: str, artifact: Artifact) -> str:
    """Name of what a node made: its place below the output root, or its role at that node."""
    return artifact.path or f"{node}/{artifact.name}"


def input_places(graph: Graph, node: str) -> list[tuple[Artifact, str, str | None]]:
    """What a node read: the artifact as it names it, the name that its maker gives it, and the maker's key."""
    makers = {edge.input: edge.maker for edge in graph.upstream(node)}
    found: list[tuple[Artifact, str, str | None]] = []
    for artifact in graph.nodes[node].record.inputs:
        maker = makers.get(artifact.name)
        made = (
            next((out for out in graph.nodes[maker].record.outputs if out.md5 == artifact.md5), None) if maker else None
        )
        found.append((artifact, place(maker, made) if maker and made else artifact.path or artifact.name, maker))
    return found


def made_by(record: Record) -> tuple[Artifact, ...]:
    """What an execution made: nothing where it did not succeed."""
    return record.outputs if record.status == "succeeded" else ()
