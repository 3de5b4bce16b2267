"""crc32c, the checksum that Google Cloud Storage keeps of every object."""

from pathlib import Path

CHUNK = 1 << 20


def crc32c(path: Path) -> int:
    """crc32c of a file's bytes."""
    import google_crc32c  # late: comes with Google's client, and `--help` needs neither

    checksum = google_crc32c.Checksum()
    with path.open("rb") as opened:
        while chunk := opened.read(CHUNK):
            checksum.update(chunk)
    return int.from_bytes(checksum.digest(), "big")
