"""The picture at the top of the README: `python docs/figures/students.py` after `make report` writes students.png.

Every row starts from one noise; the columns are the teacher at its reference sampler and the distilled students.
"""

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np

STEPS = (8, 4, 2, 1)
ROWS, BLOCKS, SCALE = 6, 3, 4  # rows of pictures, blocks side by side, pixels a pixel


def columns(artifacts: Path, method: str) -> dict[str, np.ndarray]:
    """Title of a column to its pictures, uint8 `[K, H, W, C]`."""
    teacher = artifacts / "evaluations" / "teacher"
    reference = next(iter(json.loads((teacher / "metrics.json").read_text())))
    found = {f"teacher\n{reference.rpartition('-')[2]}": np.load(teacher / f"samples-{reference}.npy")}
    for steps in STEPS:
        found[f"student\n{steps}"] = np.load(artifacts / "evaluations" / f"{method}-{steps}" / "samples.npy")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--artifacts", type=Path, default=Path("artifacts"))
    parser.add_argument("--method", default="cd")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("students.png"))
    args = parser.parse_args()
    found = columns(args.artifacts, args.method)
    side = next(iter(found.values())).shape[1] * SCALE
    figure, axes = plt.subplots(1, BLOCKS, figsize=(BLOCKS * len(found) * 0.62, ROWS * 0.62 + 0.5), dpi=200)
    for block, ax in enumerate(axes):
        rows = range(block * ROWS, (block + 1) * ROWS)
        sheet = np.concatenate(
            [np.concatenate([pictures[row] for pictures in found.values()], axis=1) for row in rows], axis=0
        )
        ax.imshow(np.kron(sheet, np.ones((SCALE, SCALE, 1), dtype=np.uint8)), interpolation="nearest")
        ax.set_xticks([(k + 0.5) * side for k in range(len(found))], list(found), fontsize=8)
        ax.xaxis.tick_top()
        ax.tick_params(length=0)
        ax.set_yticks([])
        for spine in ax.spines.values():
            spine.set_visible(False)
    figure.subplots_adjust(left=0.01, right=0.99, top=0.87, bottom=0.01, wspace=0.06)
    figure.savefig(args.out, metadata={"Software": None})


if __name__ == "__main__":
    main()
