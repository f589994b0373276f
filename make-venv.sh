#!/usr/bin/env bash
# Makes or updates a virtual environment and installs this checkout in it, with the versions of constraints.txt.
# Usage: make-venv.sh FOLDER EXTRAS      e.g. make-venv.sh .venv dev
# The variable PYTHON names the Python to use. Default: the first one found that is 3.11 or newer.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
folder=$1 extras=$2

fail() {
    echo "make-venv.sh: $*" >&2
    exit 1
}

new_enough() {
    command -v "$1" >/dev/null && "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

if [[ -n ${PYTHON:-} ]]; then
    new_enough "$PYTHON" || fail "PYTHON=$PYTHON is not Python >= 3.11"
else
    for PYTHON in python3 python3.14 python3.13 python3.12 python3.11 none; do
        new_enough "$PYTHON" && break
    done
    [[ $PYTHON != none ]] || fail "no Python >= 3.11 found. Install one, e.g. apt-get install python3.11 python3.11-venv"
fi

# Debian has the module `venv` in a separate package.
if ! "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null; then
    package=$("$PYTHON" -c 'import sys; print(f"python{sys.version_info.major}.{sys.version_info.minor}-venv")')
    echo "make-venv.sh: $PYTHON cannot make a virtual environment without the system package $package" >&2
    as_root=()
    if [[ $(id -u) -ne 0 ]]; then
        as_root=(sudo -n)
        sudo -n true 2>/dev/null || fail "install it first: sudo apt-get install $package"
    fi
    "${as_root[@]}" apt-get update -q
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q "$package"
fi

echo "Building $folder with $("$PYTHON" --version) (once; about a minute on a fast network) ..."
"$PYTHON" -m venv "$folder"
"$folder/bin/python" -m pip install -c constraints.txt -e ".[$extras]"
