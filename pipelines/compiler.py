"""The pipeline as YAML for a cluster, and back: what a compiled file is, and whether it may leave."""

import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from kfp import compiler
from kfp.dsl.base_component import BaseComponent

from mcm.errors import UserError
from pipelines.pipeline import NAME, NOTHING, Given, build
from pipelines.profile import Profile

PROJECT = "multistep-consistency"
HEADER = re.compile(r"# multistep-consistency (?P<version>\S+), profile (?P<profile>\S+)\n")
PINNED = re.compile(r".+@sha256:[0-9a-f]{64}")
COMMENT = re.compile(r"\A(?:#.*\n)+")
# What a new release of kfp changes in a file without any change of ours.
RELEASE = re.compile(r"(?m)^sdkVersion: kfp-.*$|kfp==[0-9.]+")


@dataclass(frozen=True)
class Compiled:
    """A compiled pipeline: its text, who made it, its images, its parameters with their defaults."""

    text: str
    version: str
    profile: str
    images: frozenset[str]
    parameters: Mapping[str, Any]  # default by name; None where the run must give one
    platform: Mapping[str, Any]

    @property
    def unpinned(self) -> list[str]:
        """Images that are not by digest."""
        return sorted(image for image in self.images if not PINNED.fullmatch(image))


def compile_pipeline(profile: Profile, image: str, params: Mapping[str, Any], given: Given = NOTHING) -> str:
    """The pipeline for a profile with `image` in every task; `params` are the defaults of its parameters."""
    header = f"# {PROJECT} {version(PROJECT)}, profile {profile.name}\n"
    return header + as_yaml(build(profile, image, params, given))


def as_yaml(component: BaseComponent) -> str:
    """A component or pipeline as Kubeflow reads it, without kfp's comment on top, whose order is random."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "compiled.yaml")
        compiler.Compiler().compile(component, str(file))
        return COMMENT.sub("", file.read_text())


def same(one: str, other: str) -> bool:
    """Whether two compiled files differ in nothing but the release of kfp that wrote them."""
    return RELEASE.sub("", one) == RELEASE.sub("", other)


def read_compiled(path: Path, allow_unpinned: bool = False) -> Compiled:
    """A file that `mcm pipeline compile` wrote. UserError where it is not one, is another version's, or names an image
    that is not by digest, unless that is allowed."""
    again = "compile it again: mcm pipeline compile"
    try:
        text = Path(path).read_text()
        documents = list(yaml.load_all(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader)))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; {again}") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        raise UserError(f"{path}: not readable as YAML; {again}") from None
    header = HEADER.match(text)
    spec = documents[0] if documents and isinstance(documents[0], dict) else {}
    if not header or spec.get("pipelineInfo", {}).get("name") != NAME:
        raise UserError(f"{path}: not a compiled pipeline of this project; {again}")
    if header["version"] != version(PROJECT):
        raise UserError(f"{path}: compiled by version {header['version']}, and this is {version(PROJECT)}; {again}")
    compiled = Compiled(
        text,
        header["version"],
        header["profile"],
        frozenset(images(spec)),
        {name: about.get("defaultValue") for name, about in spec["root"]["inputDefinitions"]["parameters"].items()},
        documents[1] if len(documents) > 1 else {},
    )
    if compiled.unpinned and not allow_unpinned:
        raise UserError(
            f"{path}: image {compiled.unpinned[0]} is not by digest, so what runs could change; "
            "lock it (mcm pipeline images --build) or pass --allow-unpinned"
        )
    return compiled


def images(spec: Mapping[str, Any]) -> set[str]:
    """The image of every executor of a pipeline."""
    executors = spec.get("deploymentSpec", {}).get("executors", {}).values()
    return {executor["container"]["image"] for executor in executors if "container" in executor}
