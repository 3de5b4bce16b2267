"""`python -m tests.chain.pausing MODULE ITERATION WAIT MARK ARGUMENTS...`: a program that waits in mid-training.

Run as a process by tests that kill it. It is the program itself, but for the step in which it stands still: after the
step of ITERATION (counted in this process) it writes the file MARK-RANK with its process id, and there waits to be
killed (WAIT is `kill`), or for SIGTERM and then goes on as it would (`term`; `first`: only rank 1 waits). So a test
hits a known iteration on any machine.
"""

import os
import runpy
import signal
import sys
import time
from pathlib import Path

from mcm.training import log, stop


def main() -> None:
    module, iteration, wait, mark, *arguments = sys.argv[1:]
    path = Path(f"{mark}-{os.environ.get('RANK', 0)}")
    step = log.Progress.step
    done = 0

    def pause(self: log.Progress) -> None:
        nonlocal done
        step(self)
        done += 1
        if done == int(iteration):
            path.with_suffix(".new").write_text(str(os.getpid()))
            path.with_suffix(".new").replace(path)
            handler = signal.getsignal(signal.SIGTERM)
            taking = getattr(handler, "__self__", None)
            assert isinstance(taking, stop.Stop)
            waits = wait != "first" or os.environ["RANK"] == "1"
            while waits and (wait == "kill" or not taking._asked):
                time.sleep(0.01)

    log.Progress.step = pause  # type: ignore[method-assign]
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
