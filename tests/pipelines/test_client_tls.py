"""The way to the server: TLS with authorities known and unknown, and proxies."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.pipelines.conftest import Verb, failed
from tests.pipelines.kfp_server import KFPServer

PASSWORD = "abc.def-123"  # what no message may hold


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority of our own (ca.pem), and a certificate of it for 127.0.0.1 (server.pem, server.key)."""
    folder = tmp_path_factory.mktemp("tls")

    def openssl(*arguments: str) -> None:
        subprocess.run(("openssl", *arguments), cwd=folder, check=True, capture_output=True)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    openssl("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-days", "2", "-subj", "/CN=authority")
    openssl("req", *key, "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=server")
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1")
    signed = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "names")
    openssl("x509", "-req", "-in", "server.csr", *signed, "-out", "server.pem")
    return folder


@pytest.fixture
def tls(certificates: Path) -> Iterator[KFPServer]:
    with KFPServer(certificates / "server.pem", certificates / "server.key") as server:
        yield server


def test_tls_with_an_authority_of_our_own(tls: KFPServer, verb: Verb, certificates: Path) -> None:
    empty = f"{tls.url}: has no runs; `mcm pipeline submit` makes one"
    failed(verb("status", "--host", tls.url, "--ca", certificates / "ca.pem"), empty)
    failed(verb("status", "--host", tls.url, "--insecure"), empty)


def test_tls_with_an_authority_that_we_do_not_know(tls: KFPServer, verb: Verb) -> None:
    failed(
        verb("status", "--host", tls.url),
        f"{tls.url}: the certificate is not signed by a known authority; give its CA with --ca FILE",
    )


def test_tls_for_another_name(tls: KFPServer, verb: Verb, certificates: Path) -> None:
    url = f"https://localhost:{tls.port}"
    said = verb("status", "--host", url, "--ca", certificates / "ca.pem")
    assert said.err.startswith(f"error: {url}: the certificate is for another name: ")
    assert said.err.endswith("; give --host the name that it carries\n")


def test_tls_where_there_is_none(server: KFPServer, verb: Verb) -> None:
    url = server.url.replace("http", "https")
    failed(verb("status", "--host", url), f"{url}: speaks no TLS; is it http:// and not https://?")


def test_a_missing_authority(verb: Verb, tmp_path: Path) -> None:
    failed(
        verb("status", "--host", "https://127.0.0.1:9", "--ca", tmp_path / "ca.pem"),
        f"{tmp_path}/ca.pem: no such file of certificates; --ca takes a PEM file",
    )


def test_a_proxy_is_used(server: KFPServer, verb: Verb) -> None:
    """The server stands for the proxy: asked for another host, it answers."""
    said = verb("status", "--host", "http://pipelines.invalid", "--proxy", server.url)
    failed(said, "http://pipelines.invalid: has no runs; `mcm pipeline submit` makes one")
    assert {seen.headers["Host"] for seen in server.seen} == {"pipelines.invalid"}


def test_the_environment_names_a_proxy(server: KFPServer, verb: Verb, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", server.url)
    said = verb("status", "--host", "http://pipelines.invalid")
    failed(said, "http://pipelines.invalid: has no runs; `mcm pipeline submit` makes one")
    monkeypatch.setenv("no_proxy", "pipelines.invalid")
    said = verb("status", "--host", "http://pipelines.invalid")
    failed(said, "http://pipelines.invalid: no such host; check --host or KFP_HOST")


def test_a_proxy_that_is_down_is_named_without_its_password(verb: Verb, closed: int) -> None:
    proxy = f"http://ada:{PASSWORD}@127.0.0.1:{closed}"
    said = verb("status", "--host", "http://pipelines.invalid", "--proxy", proxy)
    failed(said, f"http://pipelines.invalid: the proxy http://127.0.0.1:{closed} does not answer; check --proxy")
