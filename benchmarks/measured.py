"""Run a command and note its seconds and its memory: `python -m benchmarks.measured LOG COMMAND ...`.

One line of JSON a command is added to the file LOG. The exit status is the command's. Memory is resident bytes of the
process and of what it starts, sampled each 20 ms; of the largest single process, the kernel's own high-water mark.
"""

import json
import resource
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.memory import Sampler


def main() -> None:
    log, *command = sys.argv[1:]
    started = time.perf_counter()
    process = subprocess.Popen(command)
    with Sampler(process.pid, 0.02) as sampler:
        exit_status = process.wait()
        seconds = time.perf_counter() - started
        sampled = sampler.take()
    # This small process is the parent, so what a child takes over from it at its start is small too.
    largest = 1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    with Path(log).open("a") as opened:
        note = {"command": command, "seconds": seconds, "bytes": max(sampled, largest)}
        opened.write(json.dumps(note) + "\n")
    sys.exit(exit_status)


if __name__ == "__main__":
    main()
