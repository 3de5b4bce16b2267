"""`python -m tests.training.dying MODULE ITERATION NOTES ARGUMENTS...`: a program one of whose workers is killed.

Run by torchrun, which starts all workers again. The program is itself, but that rank 1 kills itself, as `kill -9`
would, after the step of ITERATION of the first start, and that each start notes its process id and the iteration that
it begins with in the file NOTES-RANK-START.
"""

import os
import runpy
import signal
import sys
from pathlib import Path
from typing import Any

from mcm.training import log


def main() -> None:
    module, iteration, notes, *arguments = sys.argv[1:]
    rank, start = os.environ["RANK"], os.environ["TORCHELASTIC_RESTART_COUNT"]
    begin, step = log.Progress.__init__, log.Progress.step
    done = 0

    def note(self: log.Progress, name: str, first: int, *rest: Any) -> None:
        nonlocal done
        done = first
        Path(f"{notes}-{rank}-{start}").write_text(f"{os.getpid()} {first}")
        begin(self, name, first, *rest)

    def die(self: log.Progress) -> None:
        nonlocal done
        step(self)
        done += 1
        if (rank, start, done) == ("1", "0", int(iteration)):
            os.kill(os.getpid(), signal.SIGKILL)

    log.Progress.__init__, log.Progress.step = note, die  # type: ignore[method-assign]
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
