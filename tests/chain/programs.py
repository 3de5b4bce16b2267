"""Running the project's programs as a user does: as processes."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]


def environment() -> dict[str, str]:
    """The environment of this interpreter, with its programs first on the path."""
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def run(*command: str | Path, cwd: Path = ROOT, status: int = 0) -> str:
    """Run to the end; stdout and stderr together. Fails where the exit status is another one."""
    done = subprocess.run(
        [str(word) for word in command], cwd=cwd, env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == status, f"exit status {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def group_ends(leader: int) -> bool:
    """Whether no process of a group is left soon: some go a little after the one that started them."""
    for _ in range(1000):
        try:
            os.killpg(leader, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.02)
    return False


def stage(name: str, *options: str | Path, status: int = 0) -> str:
    """Run `python -m components.<name>`."""
    return run(sys.executable, "-m", f"components.{name}", *options, status=status)


def write_params(path: Path, params: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(params, sort_keys=False))
    return path
