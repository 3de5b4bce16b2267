"""Who we are to a Kubeflow Pipelines server: bearer tokens, from places that need no browser. None is ever printed."""

import base64
import json
import os
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mcm.errors import UserError

TOKEN, TOKEN_FILE = "KFP_TOKEN", "KFP_TOKEN_FILE"
# The KFP client reads these two by itself. With the second it would open a browser, so they are never left to it.
AUDIENCE = "KF_PIPELINES_IAP_OAUTH2_CLIENT_ID"
BROWSER = ("KF_PIPELINES_APP_OAUTH2_CLIENT_ID", "KF_PIPELINES_APP_OAUTH2_CLIENT_SECRET")
# Where the kubelet projects a token for the pipelines API, and the variable that names another place (as kfp has it).
PROJECTED, PROJECTED_ENV = "/var/run/secrets/kubeflow/pipelines/token", "KF_PIPELINES_SA_TOKEN_PATH"
EARLY = 60  # seconds before its end that a Google token is renewed


class Tokens(ABC):
    """A source of tokens. The KFP client calls `refresh_api_key_hook` before each request."""

    renews = True  # whether another token may come from the same place

    @property
    @abstractmethod
    def source(self) -> str:
        """Where the token comes from, for messages."""

    @property
    @abstractmethod
    def remedy(self) -> str:
        """How a person renews it, for messages."""

    @abstractmethod
    def token(self) -> str:
        """A token now; UserError when there is none."""

    def refresh_api_key_hook(self, config: Any) -> None:
        """What kfp's TokenCredentialsBase asks for: put a fresh token into the client's configuration."""
        config.api_key["authorization"] = self.token()

    def renew(self) -> None:
        """Forget a token that was refused."""
        return None  # what is read anew for each request was not kept

    def age(self) -> str:
        """` (it expired 3 h ago)` where the token says so itself, else an empty string."""
        try:
            end = float(_claims(self.token())["exp"])
        except (UserError, KeyError, TypeError, ValueError):
            return ""
        seconds = time.time() - end
        return f" (it expired {duration(seconds)} ago)" if seconds > 0 else ""


@dataclass
class EnvironmentToken(Tokens):
    """A token in an environment variable."""

    variable: str
    renews = False

    @property
    def source(self) -> str:
        return f"the token in ${self.variable}"

    @property
    def remedy(self) -> str:
        return f"put a new one into {self.variable}"

    def token(self) -> str:
        value = os.environ.get(self.variable, "").strip()
        if not value:
            raise UserError(f"${self.variable}: holds no token; set it, or give --token-file")
        return _checked(value, f"${self.variable}")


@dataclass
class FileToken(Tokens):
    """A token in a file, read for each request, so that one who rotates it need not tell us."""

    path: Path
    how: str = "write a new one there"

    @property
    def source(self) -> str:
        return f"the token in {self.path}"

    @property
    def remedy(self) -> str:
        return self.how

    def token(self) -> str:
        try:
            value = self.path.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "not text"
            raise UserError(f"{self.path}: cannot read the token: {reason}; {self.how}") from None
        if not value:
            raise UserError(f"{self.path}: the token file is empty; {self.how}")
        return _checked(value, str(self.path))


class GoogleToken(Tokens):
    """An identity token for an audience (Identity-Aware Proxy), from a service account: key file, metadata server,
    Workload Identity. google-auth finds it (GOOGLE_APPLICATION_CREDENTIALS first)."""

    def __init__(self, audience: str) -> None:
        self.audience = audience
        self._credentials: Any = None
        self._end = 0.0

    @property
    def source(self) -> str:
        return f"the Google identity token for audience {self.audience}"

    @property
    def remedy(self) -> str:
        return "check --audience and that the service account may pass the proxy (role IAP-secured Web App User)"

    def token(self) -> str:
        import google.auth.exceptions
        import google.auth.transport.requests
        import google.oauth2.id_token

        request = google.auth.transport.requests.Request()
        try:
            if self._credentials is None:
                self._credentials = google.oauth2.id_token.fetch_id_token_credentials(self.audience, request=request)
            if not self._credentials.token or time.time() > self._end - EARLY:
                self._credentials.refresh(request)
                self._end = float(_claims(self._credentials.token).get("exp", time.time() + 3600))
        except (google.auth.exceptions.GoogleAuthError, ValueError, OSError) as error:
            raise UserError(
                f"audience {self.audience}: no Google identity token: {one_line(str(error))}; "
                "point GOOGLE_APPLICATION_CREDENTIALS to a service account's key, or run where Workload Identity is"
            ) from None
        return str(self._credentials.token)

    def renew(self) -> None:
        self._end = 0.0


def choose(token_file: Path | None, audience: str | None, cluster_token: bool) -> Tokens | None:
    """The one source that options name; else the first that the environment names; else None: no token is sent."""
    given = [
        name
        for name, value in (
            ("--token-file", token_file),
            ("--audience", audience),
            ("--cluster-token", cluster_token),
        )
        if value
    ]
    if len(given) > 1:
        raise UserError(f"{' and '.join(given)}: two sources of tokens; give one")
    if token_file:
        return FileToken(token_file)
    if audience:
        return GoogleToken(audience)
    if cluster_token:
        path = Path(os.environ.get(PROJECTED_ENV) or PROJECTED)
        return FileToken(path, f"the pod needs a projected service account token there, or {PROJECTED_ENV} names it")
    if os.environ.get(TOKEN):
        return EnvironmentToken(TOKEN)
    if os.environ.get(TOKEN_FILE):
        return FileToken(Path(os.environ[TOKEN_FILE]))
    if os.environ.get(AUDIENCE):
        return GoogleToken(os.environ[AUDIENCE])
    return None


def duration(seconds: float) -> str:
    """`45 s`, `12 min`, `3 h 5 min`, `2 d 4 h`."""
    total = max(0, round(seconds))
    for unit, size, small, part in (("d", 86400, "h", 3600), ("h", 3600, "min", 60)):
        if total >= size:
            rest = total % size // part
            return f"{total // size} {unit}" + (f" {rest} {small}" if rest else "")
    return f"{total // 60} min" if total >= 120 else f"{total} s"


def one_line(text: str, limit: int = 300) -> str:
    """Text of others in one line of bounded length."""
    words = " ".join(text.split()).strip(" .;")
    return words if len(words) <= limit else f"{words[: limit - 3]}..."


def _claims(token: str) -> dict[str, Any]:
    """What a JSON web token says of itself, unverified; {} for another kind of token."""
    parts = token.split(".")
    if len(parts) != 3:
        return {}
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except ValueError:
        return {}
    return claims if isinstance(claims, dict) else {}


def _checked(token: str, where: str) -> str:
    # A header with a line break in it would be refused deep inside the HTTP library, with the token in the message.
    if not token.isascii() or not token.isprintable() or " " in token:
        raise UserError(f"{where}: not a token: spaces, line breaks or letters outside ASCII in it")
    return token
