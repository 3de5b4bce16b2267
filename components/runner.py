"""What the programs of all stages share: parameters from `params.yaml`, one-line errors, where training state lives."""

import errno
import functools
import hashlib
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

import yaml

from mcm.config import Config, suggest
from mcm.errors import UserError

SECTIONS = ("data", "network", "schedule", "teacher", "variance", "students", "evaluation")

C = TypeVar("C", bound=Config)


class Main(Protocol):
    """A program: `argv` None reads the command line."""

    def __call__(self, argv: list[str] | None = None) -> None: ...


def command(main: Callable[[list[str] | None], None]) -> Main:
    """Make `main(argv)` a program: bad input is one line on stderr and exit status 2, an interrupt is status 130."""

    @functools.wraps(main)
    def run(argv: list[str] | None = None) -> None:
        try:
            main(argv)
        except UserError as error:
            _leave(str(error), 2)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EROFS):
                raise
            where = error.filename or "the output folder"
            _leave(f"{where}: {error.strerror}; free or choose another place, then run the same command again", 2)
        except KeyboardInterrupt:
            _leave("interrupted; the same command goes on from the newest checkpoint", 130)

    return run


def _leave(message: str, status: int) -> None:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(status)


def read_params(path: Path) -> dict[str, Any]:
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
        if name not in SECTIONS:
            raise UserError(f"{path}: unknown section '{name}'; {suggest(str(name), list(SECTIONS))}")
    return params


def section(params: Mapping[str, Any], name: str, kind: type[C]) -> C:
    """One section, typed and checked."""
    values = params.get(name)
    if values is None:
        values = {}
    if not isinstance(values, Mapping):
        raise UserError(f"parameters, section '{name}': holds {values!r}, and a mapping is needed")
    return kind.parse(values, f"parameters, section '{name}'")


def fingerprint(identity: Mapping[str, Any]) -> str:
    """Hash of a resolved configuration and input hashes: the key of training state and caches."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def work_folder(work: Path, stage: str, identity: Mapping[str, Any]) -> Path:
    """Where a stage keeps what lies beside its artifact: checkpoints, logs. Keyed by content, not by run."""
    return Path(work) / f"{stage}-{fingerprint(identity)[:12]}"
