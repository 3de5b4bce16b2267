"""A pipelines server, a compiled pipeline, and the verbs of `mcm pipeline` as a user calls them."""

import importlib
import json
import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.chain.programs import ROOT
from tests.pipelines.kfp_server import KFPServer

IMAGE = f"registry.example/mcm-cpu@sha256:{'0' * 64}"


@dataclass(frozen=True)
class Said:
    """How a command ended and what it printed."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Verb = Callable[..., Said]


def failed(said: Said, line: str) -> None:
    """Bad input: one line on stderr, nothing on stdout, status 2."""
    assert (said.status, said.err, said.out) == (2, f"error: {line}\n", "")


@pytest.fixture
def closed() -> Iterator[int]:
    """A port at which nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@pytest.fixture
def server() -> Iterator[KFPServer]:
    """A server, which must have seen nothing that the API's document does not have."""
    with KFPServer() as made:
        yield made
    assert made.violations == []


@pytest.fixture
def verb(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Verb:
    """Run `mcm pipeline VERB ...` in this process, without the environment's servers, tokens and proxies."""
    for name in list(os.environ):
        if name.startswith(("KFP_", "KF_PIPELINES_")) or name.upper().endswith("_PROXY"):
            monkeypatch.delenv(name)
    for module in ("kubernetes.config", "kubernetes.config.kube_config"):  # read from the environment at their import
        monkeypatch.setattr(f"{module}.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "kubeconfig"))
    monkeypatch.setattr("kfp.Client._LOCAL_KFP_CONTEXT", str(tmp_path / "context.json"))
    monkeypatch.setattr("pipelines.client.FIRST", 0.02)

    def run(name: str, *arguments: object) -> Said:
        status = 0
        capsys.readouterr()
        try:
            importlib.import_module(f"pipelines.commands.{name}").main([str(argument) for argument in arguments])
        except SystemExit as left:
            status = int(left.code or 0)
        printed = capsys.readouterr()
        assert "Traceback" not in printed.err
        return Said(status, printed.out, printed.err)

    return run


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pipeline compiled for the profile `cpu`."""
    from pipelines.compiler import compile_pipeline
    from pipelines.parameters import load
    from pipelines.profile import load_profile

    file = tmp_path_factory.mktemp("package") / "cpu.yaml"
    file.write_text(compile_pipeline(load_profile("cpu"), IMAGE, load(ROOT / "params.yaml")))
    return file


@pytest.fixture
def submit(verb: Verb, server: KFPServer, package: Path) -> Verb:
    """`submit` of the compiled pipeline to the server; further arguments are appended."""

    def run(*arguments: object, where: object = None) -> Said:
        params = ROOT / "params.yaml"
        common = ("--package", package, "--params", params, "--store", "/mnt/state", "--host", where or server.url)
        return verb("submit", *common, *arguments)

    return run
