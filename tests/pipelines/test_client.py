"""Reaching the server: every way in which that fails is one line, and no token is ever shown."""

import base64
import json
import subprocess
import time
import urllib.parse
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.pipelines.conftest import Verb, failed
from tests.pipelines.kfp_server import KFPServer
from tests.serving import Quiet, Server

HEALTH = "/apis/v2beta1/healthz"
RUNS = "/apis/v2beta1/runs"
SECRET = "abc.def-123"  # what no message may hold


def jwt(seconds: float) -> str:
    """A token that ends so many seconds from now, signed by nobody."""
    parts = [json.dumps({"alg": "none"}), json.dumps({"exp": time.time() + seconds}), "signature"]
    return ".".join(base64.urlsafe_b64encode(part.encode()).decode().rstrip("=") for part in parts)


# Where the server is


def test_a_host_without_server(verb: Verb, closed: int) -> None:
    url = f"http://127.0.0.1:{closed}"
    failed(verb("status", "--host", url), f"{url}: connection refused; is the server up, and its port forwarded?")


def test_a_name_that_is_none(verb: Verb) -> None:
    said = verb("status", "--host", "no-such-host.invalid")
    failed(said, "https://no-such-host.invalid: no such host; check --host or KFP_HOST")


def test_no_host_at_all(verb: Verb, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    failed(verb("status"), "no server: give --host or set KFP_HOST; no cluster and no kubeconfig were found either")


def test_an_address_that_is_none(verb: Verb) -> None:
    failed(
        verb("status", "--host", "ftp://somewhere"),
        "ftp://somewhere: not the address of a server; --host takes https://NAME or http://NAME:PORT",
    )


def test_the_environment_names_the_host(server: KFPServer, verb: Verb, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KFP_HOST", f"{server.url}/")
    failed(verb("status"), f"{server.url}: has no runs; `mcm pipeline submit` makes one")


def test_the_kubeconfig_leads_to_the_server(server: KFPServer, verb: Verb, tmp_path: Path) -> None:
    parts = {"cluster": {"server": server.url}, "user": {}}
    listed = {f"{kind}s": [{"name": "own", kind: value}] for kind, value in parts.items()}
    context = [{"name": "own", "context": {"cluster": "own", "user": "own"}}]
    config = {**listed, "contexts": context, "current-context": "own"}
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump(config))
    said = verb("status")
    assert said.err == (
        f"error: {server.url}/api/v1/namespaces/kubeflow/services/ml-pipeline:http/proxy: has no runs; "
        "`mcm pipeline submit` makes one\n"
    )


def test_the_clients_own_settings_name_the_namespace(server: KFPServer, verb: Verb, tmp_path: Path) -> None:
    (tmp_path / "context.json").write_text('{"namespace": "team"}')
    assert verb("status", "--host", server.url).status == 2
    assert server.seen[-1].query["namespace"] == "team"


NOT_KFP = (
    "answers, but not as Kubeflow Pipelines ({}); check --host, to which the path before /apis belongs; "
    "a login page in between wants a token"
)


def test_a_page_instead_of_the_server(server: KFPServer, verb: Verb) -> None:
    server.page = "<html>log in</html>"
    failed(verb("status", "--host", server.url), f"{server.url}: {NOT_KFP.format('no health report')}")


@pytest.mark.parametrize("body", ["<html>nothing here</html>", '{"detail": "no such route"}'], ids=["page", "JSON"])
def test_another_server(server: KFPServer, verb: Verb, body: str) -> None:
    server.fault("GET", HEALTH, status=404, body=body, times=9)
    failed(verb("status", "--host", server.url), f"{server.url}: {NOT_KFP.format('status 404')}")


def test_a_server_that_is_overloaded_is_asked_again(server: KFPServer, verb: Verb) -> None:
    server.fault("GET", HEALTH, status=503, times=2)
    server.fault("GET", RUNS, status=500, times=2)
    failed(verb("status", "--host", server.url), f"{server.url}: has no runs; `mcm pipeline submit` makes one")


def test_a_server_that_stays_overloaded(server: KFPServer, verb: Verb) -> None:
    server.fault("GET", RUNS, status=503, times=1000)
    said = verb("status", "--host", server.url, "--patience", 0.1)
    failed(said, f"{server.url}: the server failed with status 503: overloaded; try again later")


def test_a_lost_connection_is_made_again(server: KFPServer, verb: Verb) -> None:
    # The HTTP library itself tries a GET four times.
    server.fault("GET", RUNS, lost=True, times=6)
    failed(verb("status", "--host", server.url), f"{server.url}: has no runs; `mcm pipeline submit` makes one")


# Who we are


def test_a_server_that_asks_who_we_are(server: KFPServer, verb: Verb) -> None:
    server.tokens = {"good"}
    failed(
        verb("status", "--host", server.url),
        f"{server.url}: asks who we are (401); give --token-file, --audience or --cluster-token, or set KFP_TOKEN",
    )


def test_a_token_from_the_environment(server: KFPServer, verb: Verb, monkeypatch: pytest.MonkeyPatch) -> None:
    server.tokens = {SECRET}
    monkeypatch.setenv("KFP_TOKEN", SECRET)
    failed(verb("status", "--host", server.url), f"{server.url}: has no runs; `mcm pipeline submit` makes one")
    assert {seen.token for seen in server.seen} == {SECRET}


def test_an_expired_token_says_where_it_is_from(server: KFPServer, verb: Verb, monkeypatch: pytest.MonkeyPatch) -> None:
    server.tokens = {"good"}
    monkeypatch.setenv("KFP_TOKEN", jwt(-3 * 3600))
    failed(
        verb("status", "--host", server.url),
        f"{server.url}: refuses the token in $KFP_TOKEN (it expired 3 h ago); put a new one into KFP_TOKEN",
    )


def test_a_token_file(server: KFPServer, verb: Verb, tmp_path: Path) -> None:
    file = tmp_path / "token"
    server.tokens = {"new"}
    failed(
        verb("status", "--host", server.url, "--token-file", file),
        f"{file}: cannot read the token: No such file or directory; write a new one there",
    )
    file.write_text(f"{SECRET}\n")
    failed(
        verb("status", "--host", server.url, "--token-file", file),
        f"{server.url}: refuses the token in {file}; write a new one there",
    )
    file.write_text("new\n")
    said = verb("status", "--host", server.url, "--token-file", file)
    failed(said, f"{server.url}: has no runs; `mcm pipeline submit` makes one")


def test_a_file_that_holds_no_token(verb: Verb, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(f"user: ada\npassword: {SECRET}\n")
    failed(
        verb("status", "--host", "http://127.0.0.1:9", "--token-file", file),
        f"{file}: not a token: spaces, line breaks or letters outside ASCII in it",
    )


def test_the_token_that_the_cluster_projects(
    server: KFPServer, verb: Verb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "projected").write_text(SECRET)
    monkeypatch.setenv("KF_PIPELINES_SA_TOKEN_PATH", str(tmp_path / "projected"))
    server.tokens = {SECRET}
    said = verb("status", "--host", server.url, "--cluster-token")
    failed(said, f"{server.url}: has no runs; `mcm pipeline submit` makes one")


def test_two_sources_of_tokens(verb: Verb, tmp_path: Path) -> None:
    failed(
        verb("status", "--host", "http://127.0.0.1:9", "--token-file", tmp_path, "--audience", "a"),
        "--token-file and --audience: two sources of tokens; give one",
    )


def test_no_browser_is_opened(server: KFPServer, verb: Verb, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With these three set the KFP client alone would open one and wait for it."""
    for name in ("IAP_OAUTH2_CLIENT_ID", "APP_OAUTH2_CLIENT_ID", "APP_OAUTH2_CLIENT_SECRET"):
        monkeypatch.setenv(f"KF_PIPELINES_{name}", "given")
    monkeypatch.setattr("webbrowser.open_new_tab", lambda url: pytest.fail("a browser was opened"))
    monkeypatch.setattr("kfp.client.auth.open_new_tab", lambda url: pytest.fail("a browser was opened"))
    file = tmp_path / "token"
    file.write_text("good")
    said = verb("status", "--host", server.url, "--token-file", file)
    failed(said, f"{server.url}: has no runs; `mcm pipeline submit` makes one")


class _Google(Quiet):
    """Where a service account's key is exchanged for an identity token, another one each time."""

    def do_POST(self) -> None:
        server: Any = self.server
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        assertion = urllib.parse.parse_qs(body)["assertion"][0].split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(assertion + "=" * (-len(assertion) % 4)))
        assert claims["target_audience"] == "client.apps.example"
        server.given.append(jwt(server.lasts + len(server.given)))
        server.accepted.clear()
        server.accepted.add(server.given[-1])
        self.answer(200, json.dumps({"id_token": server.given[-1]}).encode())


@pytest.mark.parametrize(("lasts", "renewed"), [(3600, False), (30, True)], ids=["lasting", "ending"])
def test_a_google_identity_token_is_renewed_before_it_ends(
    server: KFPServer, verb: Verb, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, lasts: int, renewed: bool
) -> None:
    google: Any = Server(_Google)
    google.given, google.lasts, google.accepted = [], lasts, set()
    server.tokens = google.accepted
    key = subprocess.run(("openssl", "genpkey", "-algorithm", "RSA"), capture_output=True, check=True, text=True).stdout
    account = {
        "type": "service_account",
        "client_email": "ada@project.iam.gserviceaccount.com",
        "private_key": key,
        "token_uri": f"http://127.0.0.1:{google.server_port}/token",
    }
    (tmp_path / "key.json").write_text(json.dumps(account))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "key.json"))
    with google:
        said = verb("status", "--host", server.url, "--audience", "client.apps.example")
    failed(said, f"{server.url}: has no runs; `mcm pipeline submit` makes one")
    assert (len(google.given) > 1) == renewed


def test_an_audience_without_google_credentials(verb: Verb, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none.json"))
    said = verb("status", "--host", "http://127.0.0.1:9", "--audience", "client.apps.example")
    assert said.status == 2
    assert said.err.startswith("error: audience client.apps.example: no Google identity token: ")
    assert said.err.count("\n") == 1


def test_what_we_may_not_do(server: KFPServer, verb: Verb, monkeypatch: pytest.MonkeyPatch) -> None:
    server.forbidden = {SECRET}
    monkeypatch.setenv("KFP_TOKEN", SECRET)
    failed(
        verb("status", "--host", server.url),
        f"{server.url}: the token in $KFP_TOKEN may not do this: User 'ada' is not authorized with reason: no role; "
        "ask for the role, or give another --namespace or token",
    )


def test_a_server_for_several_users_wants_a_namespace(server: KFPServer, verb: Verb) -> None:
    server.multi_user = True
    failed(
        verb("status", "--host", server.url),
        f"{server.url}: Invalid input error: In multi-user mode, the namespace must be given",
    )
    said = verb("status", "--host", server.url, "--namespace", "team")
    failed(said, f"{server.url}: has no runs; `mcm pipeline submit` makes one")
    assert server.seen[-1].query["namespace"] == "team"


@pytest.mark.parametrize("name", ["submit", "status", "wait", "logs", "cancel", "resume", "schedule"])
def test_every_verb_takes_the_same_connection(verb: Verb, name: str) -> None:
    said = verb(name, "--help")
    assert said.status == 0
    assert said.out.startswith(f"usage: mcm pipeline {name} ")
    for option in (
        "--host",
        "--namespace",
        "--token-file",
        "--audience",
        "--cluster-token",
        "--proxy",
        "--ca",
        "--json",
    ):
        assert f"{option}" in said.out
