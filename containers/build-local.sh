#!/usr/bin/env bash
# Build an image with podman where no registry can be reached: the base comes from Debian's packages by debootstrap.
#   sudo containers/build-local.sh [TARGET...]        (cpu)
# PYTHON names an interpreter that has the project. PIP_CERT (a file) and PIP_FIND_LINKS (a folder with the CPU build of
# torch) reach the build where they are set. The digest goes into images.lock.json.
set -euo pipefail
cd "$(dirname "$0")/.."
base=localhost/bookworm-python3.11
epoch=1767225600 # EPOCH of pipelines/images.py
if [ ! -d /run/systemd/system ]; then
    export CONTAINERS_CONF=${CONTAINERS_CONF:-$PWD/containers/containers.conf}
fi

if ! podman image exists "$base"; then
    folder=$(mktemp -d)
    trap 'rm -rf "$folder"' EXIT
    echo "debootstrap: the base $base"
    debootstrap --variant=minbase --include=ca-certificates,python3,python3-venv bookworm "$folder/root" >"$folder/log" ||
        { tail -20 "$folder/log" >&2; exit 1; }
    # Byte code that is not compared with times, which the build sets; nothing of this machine or of this hour.
    find "$folder/root" -name __pycache__ -prune -exec rm -rf {} +
    chroot "$folder/root" env PYTHONHASHSEED=0 python3 -m compileall -qq --invalidation-mode unchecked-hash /usr/lib/python3.11 || :
    (cd "$folder/root" && rm -rf etc/resolv.conf etc/hostname etc/machine-id var/log/* var/lib/apt/lists/* \
        var/cache/apt/* var/cache/ldconfig/* var/cache/debconf/*-old var/lib/dpkg/*-old etc/*-)
    sed -i -E 's/^([^:]*:[^:]*:)[0-9]+:/\120454:/' "$folder/root/etc/shadow" # day of the last change of a password
    tar --create --directory "$folder/root" --sort=name --mtime="@$epoch" --numeric-owner --file "$folder/root.tar" .
    printf 'FROM scratch\nADD root.tar /\n' >"$folder/Containerfile"
    printf '*\n!root.tar\n' >"$folder/.containerignore"
    podman build --quiet --timestamp "$epoch" --identity-label=false --tag "$base" "$folder"
fi

for target in "${@:-cpu}"; do
    "${PYTHON:-python3}" -m pipelines.commands.images --build --engine podman --target "$target" --base "$base" --network host
done
