# For the Containerfile: install a list of packages, each by hash, or the project, and compile what was installed.
#   sh install.sh REQUIREMENTS.txt
#   sh install.sh --prefix FOLDER PROJECT
# Byte code is checked against nothing when it is loaded, for the build gives all files one time, and time is what
# Python would compare. One process, since several write the same code in other bytes.
set -eu
if [ -f /run/secrets/ca ]; then export PIP_CERT=/run/secrets/ca; fi
if ls /run/wheels/*.whl >/dev/null 2>&1; then export PIP_FIND_LINKS=/run/wheels; fi
if [ "$1" = --prefix ]; then
    pip install --progress-bar off --no-deps --no-compile --no-build-isolation --prefix "$2" "$3"
    folder=$2
else
    pip install --progress-bar off --no-deps --no-compile --no-build-isolation --require-hashes --requirement "$1"
    folder=/opt/mcm
fi
# Some packages hold files in the syntax of a later Python, which nothing loads in this one.
python -m compileall -qq --invalidation-mode unchecked-hash "$folder/lib" || :
