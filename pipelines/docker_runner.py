"""KFP's local runner in containers, where a container that failed is a task that failed, on Docker and podman alike.

KFP 2.17 starts a container that the engine removes by itself, and asks for its exit status afterwards. Where the
removal wins (always on podman, now and then on Docker) there is none to ask for, and KFP counts that as success
(`kfp/local/docker_task_handler.py`). Here the container stays until its status has been read.

KFP looks up the handler of a runner by the runner's exact class, so a class of our own is refused, and there is no
setting for what is wrong. The narrowest place is the one function that starts the container and gives its status:
`container_runner` puts another in its place while it is open. Commands, placeholders, volumes of the pipeline root and
environment variables are KFP's still.
"""

import codecs
import contextlib
import os
import re
import signal
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from kfp.local import DockerRunner

from mcm.errors import UserError

DEFAULT_HOST = "unix:///var/run/docker.sock"
SUBPROCESS = "use --runner subprocess"
INSTEAD = f"start Docker, or podman system service and set DOCKER_HOST to its socket, or {SUBPROCESS}"
NOT_RUN = 125  # the status of a container that the engine did not run, as its own command line has it
GRACE = 10  # seconds between SIGTERM and SIGKILL for a container that is stopped with the run
SHM = "1g"  # /dev/shm, where data loaders hand over batches; engines give 64 MB


@contextlib.contextmanager
def container_runner(
    mounts: Mapping[Path, str],
    env: Mapping[str, str] | None = None,
    user: str | None = None,
    network: str | None = None,
) -> Iterator[DockerRunner]:
    """A runner for `kfp.local.init`, valid while the block is open.

    `mounts` are folders or files of this machine, "rw" or "ro", that a container finds under the same path; the
    pipeline root need not be among them. `env` is set in each container. `user` ("uid:gid") is the caller by default,
    so that what tasks write is the caller's. `network` is one of the engine's, "none" for none, its default otherwise.
    Containers are removed whatever happens; an interrupt or SIGTERM stops those that run and is a KeyboardInterrupt.
    UserError where no engine answers, the package docker is missing, or a mount is not there.
    """
    for path in mounts:
        if not path.exists():
            raise UserError(f"{path}: not here, so no container can have it; name what is there")
    with _client() as client:
        who = _identity(client) if user is None else {"user": user}
    from kfp.local import docker_task_handler

    places = {str(path.absolute()): mode for path, mode in mounts.items()}
    containers = _Containers({place: {"bind": place, "mode": mode} for place, mode in places.items()})
    options = {**who, "shm_size": SHM, "environment": dict(env or {})}
    if network is not None:
        options["network_mode"] = network
    replaced = docker_task_handler.run_docker_container
    docker_task_handler.run_docker_container = containers.run
    try:
        with _stopping(containers):
            yield DockerRunner(**options)
    finally:
        docker_task_handler.run_docker_container = replaced
        containers.stop()


class _Containers:
    """Runs containers to their end, and knows which are running."""

    def __init__(self, mounts: Mapping[str, Mapping[str, str]]):
        self.mounts = dict(mounts)
        self.running: dict[str, Any] = {}

    def run(
        self, client: Any, image: str, command: list[str], volumes: Mapping[str, Mapping[str, str]], **options: Any
    ) -> int:
        """Run one container, print what it prints, and give its exit status. In place of kfp's `run_docker_container`.

        KFP would make a log line without a reason of an exception, so what the engine says is printed as an error.
        """
        import docker.errors
        import requests

        try:
            _fetch(client, image)
            container = client.containers.create(image, command, volumes={**volumes, **self.mounts}, **options)
            self.running[container.id] = container
            try:
                container.start()
                for line in _lines(container.logs(stream=True, follow=True)):
                    print(f"{line}\n", end="", flush=True)  # in one piece: the tasks of a loop print at a time
                return _ending(container)
            finally:
                with contextlib.suppress(docker.errors.APIError):
                    container.remove(force=True)
                self.running.pop(container.id, None)
        except UserError as error:
            print(f"error: {error}", flush=True)
        except (docker.errors.DockerException, requests.RequestException, OSError) as error:
            print(f"error: container engine: {' '.join(_reason(error).split())}", flush=True)
        return NOT_RUN

    def stop(self) -> None:
        """Stop what runs; whoever started it then finds it ended and removes it."""
        import docker.errors
        import requests

        for container in list(self.running.values()):
            with contextlib.suppress(docker.errors.DockerException, requests.RequestException):
                container.stop(timeout=GRACE)


@contextlib.contextmanager
def _stopping(containers: _Containers) -> Iterator[None]:
    """Stop containers first on an interrupt: KFP waits for the threads in which they run before it lets go."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: Any) -> None:
        print("stopping what runs", file=sys.stderr, flush=True)
        containers.stop()
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _client() -> Iterator[Any]:
    """A client of the engine that `DOCKER_HOST` names. UserError where none answers."""
    try:
        import docker
        import docker.errors
        import requests
    except ImportError:
        raise UserError(f"containers: no Python package docker; pip install docker, or {SUBPROCESS}") from None
    try:
        client = docker.from_env()
        client.ping()
    except (docker.errors.DockerException, requests.RequestException) as error:
        where = os.environ.get("DOCKER_HOST") or DEFAULT_HOST
        raise UserError(f"container engine: no answer at {where} ({_reason(error)}); {INSTEAD}") from None
    try:
        yield client
    finally:
        client.close()


def _identity(client: Any) -> dict[str, str]:
    """Options by which a container writes files as the caller."""
    caller = f"{os.getuid()}:{os.getgid()}"
    if "name=rootless" not in client.info().get("SecurityOptions", []):
        return {"user": caller}
    # The engine runs as the caller, who is root in its containers, unless podman is told to keep the caller's id.
    names = [part.get("Name", "") for part in client.version().get("Components", [])]
    return {"user": caller, "userns_mode": "keep-id"} if "Podman Engine" in names else {"user": "0:0"}


def _fetch(client: Any, image: str) -> None:
    """Pull an image that the engine does not have. UserError for one that was to be built on this machine."""
    import docker.errors

    try:
        client.images.get(image)
    except docker.errors.ImageNotFound:
        if image.startswith("localhost/"):
            raise UserError(
                f"image {image}: not in this engine; build it with containers/build-local.sh, or name one with --image"
            ) from None
        print(f"pulling {image}", flush=True)
        client.images.pull(image)


def _lines(chunks: Iterable[bytes]) -> Iterator[str]:
    """Whole lines of a log that comes in pieces, which may end within a line and within a letter.

    A progress bar that redraws itself is a line each time.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    rest = ""
    for chunk in chunks:
        *lines, rest = re.split("\r*\n|\r(?=.)", rest + decoder.decode(chunk))
        yield from lines
    if rest:
        yield rest


def _ending(container: Any) -> int:
    """The exit status of a container, when it has one; a line about what ended it, if it did not end itself."""
    status = int(container.wait()["StatusCode"])
    if status > 128:
        container.reload()
        out_of_memory = container.attrs["State"].get("OOMKilled")
        print(f"the container was ended by signal {status - 128}{', out of memory' * bool(out_of_memory)}", flush=True)
    return status


def _reason(error: BaseException) -> str:
    """The operating system's reason within an error of docker or requests, or what the engine said."""
    inner = [part for part in (*error.args, error.__cause__, error.__context__) if isinstance(part, BaseException)]
    inner += [part for arg in error.args if isinstance(arg, tuple) for part in arg if isinstance(part, BaseException)]
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    found = [reason for part in inner if (reason := _reason(part))]
    explained = getattr(error, "explanation", None)
    return str(explained) if explained else found[0] if found else str(error)
