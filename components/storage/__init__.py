"""Folders and files under `gs://` as the stages need them: whole, checked, and moved once.

Every function takes a `gs://bucket/prefix` or a plain path, so that a bucket and a mounted disk are used alike.
Google's client is imported where a bucket is opened, and finds its own credentials (Application Default Credentials,
Workload Identity); with STORAGE_EMULATOR_HOST it speaks to that endpoint, without credentials.
"""

from components.storage.objects import Objects
from components.storage.store import is_remote
from components.storage.transfer import (
    delete,
    download,
    exists,
    fetch,
    list_names,
    listing_version,
    read_bytes,
    upload,
    write_bytes,
)

__all__ = [
    "Objects",
    "delete",
    "download",
    "exists",
    "fetch",
    "is_remote",
    "list_names",
    "listing_version",
    "read_bytes",
    "upload",
    "write_bytes",
]
