"""Google Cloud Storage: parallel transfers that survive a broken connection, with crc32c compared at both ends.

A large file goes up in a resumable session, chunk by chunk, and comes down in ranges, so that a break costs one chunk.
The client library repeats what failed in passing; what is left becomes one line that names the URI.
"""

import base64
import contextlib
import functools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import requests.adapters
import requests.exceptions
from google.api_core import exceptions as api
from google.api_core.retry import Retry
from google.auth import exceptions as auth
from google.cloud import storage
from google.cloud.storage.exceptions import DataCorruption, InvalidResponse
from google.cloud.storage.retry import DEFAULT_RETRY

from components.storage.checksum import crc32c
from components.storage.store import SCHEME, BrokenError, Entry
from mcm.errors import UserError

THREADS = 16  # transfers at a time: they wait for the network, not for a processor
CHUNK = 8 * 2**20  # bytes of one request
ATTEMPTS = 3  # at a file whose session was lost or whose checksum came out wrong
LOST = (404, 410)  # what the server says of an upload's session that it has forgotten
QUICK, PATIENT = 20.0, 300.0  # seconds to repeat a question, and a transfer, before giving up
TIMEOUT = (10.0, 60.0)  # seconds to connect, and between bytes

T = TypeVar("T")
R = TypeVar("R")


class BucketStore:
    """Objects of `bucket` below `prefix`; see `Store`. Safe to use from several threads."""

    def __init__(self, bucket: str, prefix: str):
        self.bucket_name, self.prefix = bucket, prefix

    def uri(self, name: str = "") -> str:
        return f"{SCHEME}{self.bucket_name}/{self._key(name)}".rstrip("/")

    def entries(self, below: str = "") -> list[Entry]:
        folder = f"{self._key(below)}/" if self._key(below) else ""
        skip = len(self.prefix) + 1 if self.prefix else 0
        with self._explained(self.uri(below)):
            blobs = self._client().list_blobs(
                self.bucket_name,
                prefix=folder,
                fields="items(name,size,crc32c,generation),nextPageToken",
                retry=_repeat(QUICK),
                timeout=TIMEOUT,
            )
            # A name that ends in a slash is a folder that some browser made.
            return sorted(
                (_entry(blob, blob.name[skip:]) for blob in blobs if not blob.name.endswith("/")),
                key=lambda entry: entry.name,
            )

    def find(self, names: Iterable[str]) -> dict[str, Entry]:
        def look(name: str) -> Entry | None:
            if not self._key(name):
                return None
            with self._explained(self.uri(name)):
                blob = self._bucket().get_blob(self._key(name), retry=_repeat(QUICK), timeout=TIMEOUT)
            return None if blob is None else _entry(blob, name)

        return {entry.name: entry for entry in _side_by_side(look, list(names)) if entry is not None}

    def checksum(self, entry: Entry) -> int:
        if entry.crc32c is None:
            raise UserError(f"{self.uri(entry.name)}: the server keeps no crc32c of it; upload it again")
        return entry.crc32c

    def get(self, wanted: Sequence[tuple[Entry, Path]]) -> None:
        ranges = []
        for entry, path in wanted:
            with path.open("wb") as opened:
                opened.truncate(entry.size)
            ranges += [(entry, path, start) for start in range(0, entry.size, CHUNK)]
        _side_by_side(self._get_range, ranges)
        _side_by_side(self._check, list(wanted))

    def put(self, files: Sequence[tuple[Path, str]]) -> None:
        _side_by_side(lambda file: self._put(*file), files)

    def read(self, name: str) -> bytes | None:
        blob = self._bucket().blob(self._key(name))
        try:
            with self._explained(self.uri(name)):
                return blob.download_as_bytes(
                    raw_download=True, checksum="crc32c", retry=_repeat(QUICK), timeout=TIMEOUT
                )
        except _MissingError:
            return None

    def write(self, name: str, data: bytes, if_absent: bool) -> bool:
        blob = self._bucket().blob(self._key(name))
        with self._explained(self.uri(name)):
            try:
                blob.upload_from_string(
                    data,
                    content_type="application/octet-stream",
                    checksum="crc32c",
                    if_generation_match=0 if if_absent else None,
                    retry=_repeat(QUICK),
                    timeout=TIMEOUT,
                )
            except api.PreconditionFailed:
                # Somebody was first; or we were, and the answer to our first attempt was lost.
                return self.read(name) == data
        return True

    def remove(self, names: Iterable[str]) -> None:
        def drop(name: str) -> None:
            with contextlib.suppress(_MissingError), self._explained(self.uri(name)):
                self._bucket().blob(self._key(name)).delete(retry=_repeat(QUICK), timeout=TIMEOUT)

        _side_by_side(drop, list(names))

    def _key(self, name: str) -> str:
        return "/".join(part for part in (self.prefix, name) if part)

    def _client(self) -> storage.Client:
        return _client(os.getpid(), *(os.environ.get(name) for name in _ENDPOINTS))

    def _bucket(self) -> storage.Bucket:
        with self._explained(self.uri()):
            return self._client().bucket(self.bucket_name)

    def _get_range(self, part: tuple[Entry, Path, int]) -> None:
        """Fill one range of a file that has its full length already."""
        entry, path, start = part
        end = min(start + CHUNK, entry.size) - 1
        # The generation pins the bytes: a writer who replaces the object meanwhile cannot mix into them.
        blob = self._bucket().blob(self._key(entry.name), generation=entry.generation)
        with self._explained(self.uri(entry.name)):
            data = blob.download_as_bytes(
                start=start,
                end=end,
                raw_download=True,
                checksum=None,  # the server knows only that of the whole, compared in _check
                single_shot_download=True,
                retry=_repeat(PATIENT),
                timeout=TIMEOUT,
            )
        if len(data) == end + 1 - start:
            with path.open("r+b") as opened:
                opened.seek(start)
                opened.write(data)

    def _check(self, copy: tuple[Entry, Path]) -> None:
        entry, path = copy
        if crc32c(path) != self.checksum(entry):
            raise BrokenError(
                f"{self.uri(entry.name)}: corrupted, its bytes do not have the crc32c that the bucket keeps; "
                "delete it and make it again"
            )

    def _put(self, path: Path, name: str) -> None:
        with self._explained(self.uri(name)):
            for attempt in range(1, ATTEMPTS + 1):
                blob = self._bucket().blob(self._key(name))
                blob.chunk_size = CHUNK
                try:
                    blob.upload_from_filename(
                        path,
                        content_type="application/octet-stream",
                        checksum="crc32c",
                        retry=_repeat(PATIENT),
                        timeout=TIMEOUT,
                    )
                    return
                except (DataCorruption, ValueError, api.ClientError) as error:
                    # A session that is gone or lost its place: begin again.
                    if attempt == ATTEMPTS or getattr(error, "code", LOST[0]) not in LOST:
                        raise

    @contextlib.contextmanager
    def _explained(self, uri: str) -> Iterator[None]:
        """What went wrong with `uri`, in one line."""
        try:
            yield
        except api.NotFound as error:
            if self._bucket_is_there():
                raise _MissingError(f"{uri}: no such object; it was removed or replaced, so run again") from error
            raise UserError(f"{SCHEME}{self.bucket_name}: no such bucket; create it or name another") from error
        except (api.Forbidden, api.Unauthorized) as error:
            raise UserError(
                f"{uri}: permission denied ({_reason(error)}); give this account the role "
                f"roles/storage.objectUser on the bucket '{self.bucket_name}'"
            ) from error
        except auth.InvalidOperation as error:
            raise UserError(
                f"{uri}: {self._client().api_endpoint} wants credentials, and with STORAGE_EMULATOR_HOST none are "
                "sent; unset it, or set API_ENDPOINT_OVERRIDE instead"
            ) from error
        except auth.DefaultCredentialsError as error:
            raise UserError(
                f"{uri}: no Google credentials found; run 'gcloud auth application-default login', or set "
                "GOOGLE_APPLICATION_CREDENTIALS, or give the pod's service account Workload Identity"
            ) from error
        except auth.GoogleAuthError as error:
            raise UserError(
                f"{uri}: Google credentials were not accepted ({_reason(error)}); log in again with "
                "'gcloud auth application-default login', or check the pod's Workload Identity"
            ) from error
        except DataCorruption as error:
            raise BrokenError(
                f"{uri}: corrupted on the way, the checksums at both ends differ; run the same command again"
            ) from error
        except (api.RetryError, ConnectionError, requests.exceptions.RequestException) as error:
            raise UserError(
                f"{uri}: {self._client().api_endpoint} does not answer ({_reason(error)}); check the network, "
                "proxies and STORAGE_EMULATOR_HOST, then run the same command again"
            ) from error
        except (api.GoogleAPICallError, InvalidResponse, ValueError) as error:
            raise UserError(f"{uri}: the server refused ({_reason(error)}); run the same command again") from error

    def _bucket_is_there(self) -> bool:
        """Whether a 404 was about the object. An account that may not ask about buckets may still use objects."""
        try:
            return bool(self._client().bucket(self.bucket_name).exists(retry=_repeat(QUICK), timeout=TIMEOUT))
        except (api.GoogleAPICallError, api.RetryError, requests.exceptions.RequestException):
            return True


class _MissingError(BrokenError):
    """The bucket is there and the object is not."""


_ENDPOINTS = ("STORAGE_EMULATOR_HOST", "API_ENDPOINT_OVERRIDE", "GOOGLE_APPLICATION_CREDENTIALS")


@functools.lru_cache
def _client(pid: int, *endpoints: str | None) -> storage.Client:
    """One client for each process and endpoint. Object operations need no project, so none is looked for."""
    client = storage.Client(project=None)
    adapter = requests.adapters.HTTPAdapter(pool_connections=THREADS, pool_maxsize=THREADS)
    for scheme in ("http://", "https://"):
        client._http.mount(scheme, adapter)
    return client


def _repeat(seconds: float) -> Retry:
    return DEFAULT_RETRY.with_timeout(seconds)


def _entry(blob: Any, name: str) -> Entry:
    checksum = None if blob.crc32c is None else int.from_bytes(base64.b64decode(blob.crc32c), "big")
    return Entry(name, blob.size, checksum, blob.generation)


def _side_by_side(work: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """`work` of each item in threads, in order; the first error ends it all."""
    if len(items) == 1:
        return [work(items[0])]
    with ThreadPoolExecutor(THREADS) as pool:
        try:
            return list(pool.map(work, items))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _reason(error: BaseException) -> str:
    """The innermost cause in a few words, without the request's URL, which may carry a session."""
    while isinstance(error, api.RetryError) and error.cause is not None:
        error = error.cause
    if isinstance(error, api.GoogleAPICallError):
        said = error.errors[0].get("message") if error.errors else None
        return f"{int(error.code or 0)} {said or type(error).__name__}"
    return type(error).__name__
