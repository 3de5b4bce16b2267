"""What the programs of all stages share: parameters from `params.yaml`, one-line errors, where training state lives."""

import contextlib
import errno
import functools
import hashlib
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import yaml

from components.lineage.recorder import note_parameters
from mcm.config import Config, suggest
from mcm.errors import UserError
from mcm.training.stop import STATUS, StoppedError

SECTIONS = ("data", "network", "schedule", "teacher", "variance", "students", "evaluation")

# What makes a place that somebody named no place to write to: full, forbidden, or a file where a folder is needed.
UNWRITABLE = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EACCES,
    errno.EROFS,
    errno.ENOTDIR,
    errno.EEXIST,
    errno.EISDIR,
)

C = TypeVar("C", bound=Config)


class Main(Protocol):
    """A program: `argv` None reads the command line."""

    def __call__(self, argv: list[str] | None = None) -> None: ...


@contextlib.contextmanager
def report_errors() -> Iterator[None]:
    """Leave with one line on stderr instead of a traceback: status 2 for bad input, 130 for an interrupt.

    Training that SIGTERM stopped leaves with status 143; of several processes, the leading one says so.
    """
    try:
        yield
    except UserError as error:
        _leave(str(error), 2)
    except BrokenPipeError:  # whoever read our output has seen enough, as `| head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        where = error.filename or "the output folder"
        _leave(f"{where}: {error.strerror}; free or choose another place, then run the same command again", 2)
    except StoppedError as stopped:
        if int(os.environ.get("RANK", 0)) == 0:
            print(stopped, file=sys.stderr)
        sys.exit(STATUS)
    except KeyboardInterrupt:
        _leave("interrupted; the same command goes on from the newest checkpoint", 130)


def command(main: Callable[[list[str] | None], None]) -> Main:
    """Make `main(argv)` a program that reports its errors as one line (`report_errors`)."""

    @functools.wraps(main)
    def run(argv: list[str] | None = None) -> None:
        with report_errors():
            main(argv)

    return run


def _leave(message: str, status: int) -> None:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(status)


def read_params(path: Path, sections: Sequence[str] = SECTIONS) -> dict[str, Any]:
    """The sections of a parameters file, unparsed; an unknown section is an error that suggests the near one."""
    try:
        params = yaml.safe_load(Path(path).read_text())
    except FileNotFoundError:
        raise UserError(f"{path}: no such parameters file; start from params.yaml or one of presets/") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not readable as YAML: {error}") from None
    if not isinstance(params, dict):
        raise UserError(f"{path}: holds no sections; start from params.yaml or one of presets/")
    for name in params:
        if name not in sections:
            raise UserError(f"{path}: unknown section '{name}'; {suggest(str(name), list(sections))}")
    return params


def section(params: Mapping[str, Any], name: str, kind: type[C]) -> C:
    """One section, typed and checked."""
    values = params.get(name)
    if values is None:
        values = {}
    if not isinstance(values, Mapping):
        raise UserError(f"parameters, section '{name}': holds {values!r}, and a mapping is needed")
    config = kind.parse(values, f"parameters, section '{name}'")
    note_parameters(name, config.resolved())
    return config


def fingerprint(identity: Mapping[str, Any]) -> str:
    """Hash of a resolved configuration and input hashes: the key of training state and caches."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def work_folder(work: Path, stage: str, identity: Mapping[str, Any]) -> Path:
    """Where a stage keeps what lies beside its artifact: checkpoints, logs. Keyed by content, not by run."""
    return Path(work) / f"{stage}-{fingerprint(identity)[:12]}"
