"""One connection to a Kubeflow Pipelines server: where it is, how it is reached, every failure as one line."""

import argparse
import contextlib
import io
import json
import logging
import os
import sys
import time
import urllib.parse
import urllib.request
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mcm.errors import UserError
from pipelines.tokens import AUDIENCE, BROWSER, TOKEN, TOKEN_FILE, Tokens, choose, one_line

HOST = "KFP_HOST"
CONNECT, READ = 10, 60  # seconds to reach the server, and between two bytes of its answer
FIRST, LONGEST = 0.5, 15.0  # seconds between attempts: the first pause, doubled up to the longest
PATIENCE = 60.0
NOWHERE = "http://localhost"  # what the generated client has where it found no server


class ApiError(UserError):
    """A request that failed. `status` is HTTP's, 0 where no answer came.

    `transient`: the same request may work later. `reached`: the server may have done what it was asked to.
    """

    def __init__(self, message: str, status: int = 0, transient: bool = False, reached: bool = False) -> None:
        super().__init__(message)
        self.status, self.transient, self.reached = status, transient, reached


@dataclass(frozen=True)
class Options:
    """How to reach the server. None means what the KFP client finds itself."""

    host: str | None = None
    namespace: str | None = None
    token_file: Path | None = None
    audience: str | None = None
    cluster_token: bool = False
    proxy: str | None = None
    ca: Path | None = None
    insecure: bool = False
    patience: float = PATIENCE


def add_connection(parser: argparse.ArgumentParser, patience: float = PATIENCE, as_json: bool = True) -> None:
    """The options that all verbs share, and `--json`, which a verb of other formats leaves out."""
    group = parser.add_argument_group("connection")
    group.add_argument("--host", metavar="URL", help=f"the Kubeflow Pipelines server (${HOST})")
    group.add_argument("--namespace", help="the user's namespace, where the server has several")
    group.add_argument(
        "--token-file", type=Path, metavar="FILE", help=f"bearer token; ${TOKEN_FILE}, or the token itself in ${TOKEN}"
    )
    group.add_argument("--audience", metavar="ID", help=f"Google identity token for this audience (${AUDIENCE})")
    group.add_argument("--cluster-token", action="store_true", help="the service account token projected into this pod")
    group.add_argument("--proxy", metavar="URL", help="HTTP or HTTPS proxy (default: $HTTPS_PROXY, $NO_PROXY)")
    group.add_argument("--ca", type=Path, metavar="FILE", help="certificates to trust, PEM")
    group.add_argument("--insecure", action="store_true", help="do not check the server's certificate")
    group.add_argument(
        "--patience",
        type=float,
        default=patience,
        metavar="SECONDS",
        help="how long to try again when the server is lost (%(default).0f)",
    )
    if as_json:
        parser.add_argument("--json", action="store_true", help="print JSON")


def options(args: argparse.Namespace) -> Options:
    """What `add_connection` read."""
    names = ("host", "namespace", "token_file", "audience", "cluster_token", "proxy", "ca", "insecure", "patience")
    return Options(**{name: getattr(args, name) for name in names})


class Connection:
    """A KFP client that answers in one-line errors, and tries again where that can help.

    `api` is the `kfp.Client`; `host` its URL as the client resolved it; `namespace` the user's, or None.
    """

    def __init__(self, chosen: Options) -> None:
        self.tokens: Tokens | None = choose(chosen.token_file, chosen.audience, chosen.cluster_token)
        self.patience = chosen.patience
        if chosen.ca and not chosen.ca.is_file():
            raise UserError(f"{chosen.ca}: no such file of certificates; --ca takes a PEM file")
        if chosen.insecure and chosen.ca:
            raise UserError("--insecure and --ca: the certificate is checked or it is not; give one")
        if self.tokens:
            self.tokens.token()  # a missing token is found before anything is sent
        host = chosen.host or os.environ.get(HOST) or os.environ.get("KF_PIPELINES_ENDPOINT")
        if host and "://" not in host:
            host = f"https://{host}"
        if host and urllib.parse.urlsplit(host).scheme not in ("http", "https"):
            raise UserError(f"{host}: not the address of a server; --host takes https://NAME or http://NAME:PORT")
        self.host = (host or "").rstrip("/")
        self.proxy = chosen.proxy or _proxy_of(self.host)
        self.api = self._connect(chosen)
        self.namespace = chosen.namespace or self.api.get_user_namespace() or None

    def _connect(self, chosen: Options) -> Any:
        import kfp

        connection = self

        class Client(kfp.Client):  # type: ignore[misc]
            """One look at the server's health where kfp takes five, 5 s apart, with a traceback of each in the log."""

            def get_kfp_healthz(self, sleep_duration: int = 0) -> Any:
                connection.host = _rest(self).configuration.host.rstrip("/")
                if connection.host == NOWHERE:
                    raise UserError(
                        f"no server: give --host or set {HOST}; no cluster and no kubeconfig were found either"
                    )
                return self.healthzs.healthz_service_get_healthz(_request_timeout=(CONNECT, READ))

        def make() -> Any:
            with _quiet():
                client = Client(
                    host=self.host or None,
                    credentials=self.tokens,
                    proxy=self.proxy,
                    ssl_ca_cert=str(chosen.ca) if chosen.ca else None,
                    verify_ssl=False if chosen.insecure else None,
                )
            return client, client.get_kfp_healthz()

        if chosen.insecure:
            import urllib3

            urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
        # A server that was never reached is a wrong address rather than one that comes back: no patience with it.
        client, health = self._retry(make, lambda error: error.transient and error.reached)
        if health.multi_user is None:
            raise self.not_kfp("no health report")
        return client

    def call(self, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """A request that may be repeated, tried again for `patience` seconds while the server is lost or overloaded."""
        return self._retry(lambda: method(*args, _request_timeout=(CONNECT, READ), **kwargs), lambda e: e.transient)

    def _retry(self, request: Callable[[], Any], again: Callable[[ApiError], bool]) -> Any:
        end = time.monotonic() + self.patience
        for pause in pauses():
            try:
                return self._attempt(request)
            except ApiError as error:
                if not again(error) or time.monotonic() + pause > end:
                    raise
                say_patiently(error, pause)
            time.sleep(pause)

    def once(self, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """A request, sent once."""
        return self._attempt(lambda: method(*args, _request_timeout=(CONNECT, READ), **kwargs))

    def _attempt(self, request: Callable[[], Any]) -> Any:
        import kfp_server_api
        import urllib3

        try:
            return request()
        except kfp_server_api.ApiException as error:
            failure = self._refused(int(error.status or 0), error.body or "", str(error.reason or ""))
        except urllib3.exceptions.HTTPError as error:
            failure = self._lost(error)
        except OSError as error:
            failure = ApiError(f"{self.host}: {one_line(str(error))}", transient=True, reached=True)
        raise failure

    def not_kfp(self, what: str) -> ApiError:
        """The error for a server that answers as something else."""
        return ApiError(
            f"{self.host}: answers, but not as Kubeflow Pipelines ({what}); check --host, to which the path before "
            "/apis belongs; a login page in between wants a token"
        )

    def _refused(self, status: int, body: Any, reason: str) -> ApiError:
        """An answer with an error status."""
        text = body.decode(errors="replace") if isinstance(body, bytes) else str(body)
        message = _message(text)
        if status == 401:
            return ApiError(f"{self.host}: {self._unknown()}", status)
        if status == 403:
            who = self.tokens.source if self.tokens else "a request without token"
            said = f": {message}" if message else ""
            return ApiError(
                f"{self.host}: {who} may not do this{said}; ask for the role, or give another --namespace or token",
                status,
            )
        if status == 429 or status >= 500:
            said = message or one_line(reason) or "no reason given"
            return ApiError(
                f"{self.host}: the server failed with status {status}: {said}; try again later",
                status,
                True,
                status != 429,
            )
        if message is None:
            return ApiError(str(self.not_kfp(f"status {status}")), status)
        return ApiError(f"{self.host}: {message}", status)

    def _unknown(self) -> str:
        if self.tokens is None:
            return f"asks who we are (401); give --token-file, --audience or --cluster-token, or set {TOKEN}"
        return f"refuses {self.tokens.source}{self.tokens.age()}; {self.tokens.remedy}"

    def _lost(self, error: Exception) -> ApiError:
        """No answer, or half of one."""
        from urllib3 import exceptions as http

        reason = error.reason if isinstance(error, http.MaxRetryError) and error.reason else error
        text = one_line(str(reason))
        if isinstance(reason, http.SSLError):
            return ApiError(f"{self.host}: {_tls(text)}")
        if isinstance(reason, http.ProxyError):
            return ApiError(
                f"{self.host}: the proxy {_shown(self.proxy)} does not answer; check --proxy", transient=True
            )
        if isinstance(reason, http.NameResolutionError):
            return ApiError(f"{self.host}: no such host; check --host or {HOST}", transient=True)
        if isinstance(reason, http.NewConnectionError):
            return ApiError(
                f"{self.host}: connection refused; is the server up, and its port forwarded?", transient=True
            )
        if isinstance(reason, http.ConnectTimeoutError):
            return ApiError(
                f"{self.host}: no answer within {CONNECT} s; is a firewall or a proxy between?", transient=True
            )
        if isinstance(reason, http.ReadTimeoutError):
            return ApiError(f"{self.host}: the answer did not come within {READ} s", transient=True, reached=True)
        if isinstance(reason, http.ProtocolError):
            return ApiError(f"{self.host}: the connection was lost", transient=True, reached=True)
        if isinstance(reason, http.LocationParseError | http.LocationValueError):
            return ApiError(f"{self.host}: not the address of a server; --host takes https://NAME or http://NAME:PORT")
        return ApiError(f"{self.host}: {text}", transient=True, reached=True)

    def may_renew(self, error: ApiError) -> bool:
        """Whether a refused token may soon be a good one: from a file that someone rotates, or from Google."""
        if error.status != 401 or self.tokens is None or not self.tokens.renews:
            return False
        self.tokens.renew()
        return True

    def get_text(self, path: str, **query: str) -> str:
        """A document of the server that its API lists nowhere, as text."""
        rest = _rest(self.api)

        def get() -> Any:
            settings = {"response_type": "str", "auth_settings": ["Bearer"], "_request_timeout": (CONNECT, READ)}
            return rest.call_api(path, "GET", query_params=list(query.items()), _preload_content=False, **settings)

        # An error status may be all that the server has to say of a log; a lost connection never is.
        found = self._retry(get, lambda error: error.transient and not error.status)
        return str(found.data.decode(errors="replace"))

    def link(self, run_id: str) -> str:
        """The run's page."""
        return f"{self.host}/#/runs/details/{run_id}"


def _rest(client: Any) -> Any:
    """The HTTP client under all services of a KFP client."""
    return client.runs.run_service_get_run.__self__.api_client


def say_patiently(error: ApiError, pause: float) -> None:
    """On stderr, once it takes longer than a blink."""
    if pause >= 1:
        print(f"{error}; trying again", file=sys.stderr)


def pauses() -> Iterator[float]:
    """Seconds to wait after the first, second, ... attempt."""
    pause = FIRST
    while True:
        yield pause
        pause = min(2 * pause, LONGEST)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """What the KFP client prints and warns while it is made concerns its authors; and it must never open a browser."""
    hidden = {name: os.environ.pop(name) for name in (*BROWSER, AUDIENCE) if name in os.environ}
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
        os.environ.update(hidden)


def _message(body: str) -> str | None:
    """What the server said, as the API's error says it; None for a body that is none of it."""
    try:
        said = json.loads(body)
    except ValueError:
        return None
    if not isinstance(said, dict) or not ({"code", "error_message"} & set(said) or isinstance(said.get("error"), str)):
        return None
    return one_line(str(said.get("message") or said.get("error_message") or said.get("error") or "no reason given"))


def _proxy_of(host: str) -> str | None:
    """The proxy that the environment names for this server."""
    parts = urllib.parse.urlsplit(host)
    if not parts.hostname or urllib.request.proxy_bypass(parts.hostname):
        return None
    found = urllib.request.getproxies_environment()
    return found.get(parts.scheme) or found.get("all")


def _shown(proxy: str | None) -> str:
    """A proxy's address without the password that may be in it."""
    parts = urllib.parse.urlsplit(proxy or "")
    return f"{parts.scheme}://{parts.hostname}" + (f":{parts.port}" if parts.port else "")


def _tls(text: str) -> str:
    lower = text.lower()
    if "wrong version number" in lower or "record layer" in lower:
        return "speaks no TLS; is it http:// and not https://?"
    if "hostname mismatch" in lower or "doesn't match" in lower or "not valid for" in lower:
        return f"the certificate is for another name: {text}; give --host the name that it carries"
    if "expired" in lower:
        return "the server's certificate expired; its owner renews it"
    if "verify failed" in lower:
        return "the certificate is not signed by a known authority; give its CA with --ca FILE"
    return f"no TLS connection: {text}; check --host and --ca"
