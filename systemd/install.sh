#!/usr/bin/env bash
# Installs or updates the agent as a systemd service. You can run it again: config and data stay. The running version
# is replaced only when the new one is complete and accepts the config.
set -euo pipefail
umask 022 # the service's user reads what root writes here

usage() {
    cat <<'TEXT'
Usage: install.sh [--wheel FILE] [--python COMMAND] [--dry-run] [--root DIR]

  --wheel FILE      install this wheel; default: the checkout of this script
  --python COMMAND  Python to build with, 3.11 or newer; default: the first found, the system's first
  --dry-run         print the steps, change nothing
  --root DIR        put every file below DIR and do not touch users and services (to try the script without root)

Makes the user zsad-agent, /opt/zsad-agent (the program), the command /usr/local/bin/zsad-agent with manual page and
completion, /etc/zsad-agent/agent.yaml (an example, if there is none) and the unit zsad-agent.service. It does not start a new service: it prints the next steps.
TEXT
}

fail() {
    echo "install.sh: $*" >&2
    exit "${code:-1}"
}

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
wheel='' python='' dry_run='' root=''
while [[ $# -gt 0 ]]; do
    case $1 in
        --wheel | --python | --root)
            [[ -n ${2:-} ]] || code=2 fail "$1 needs a value"
            declare "${1#--}=$2"
            shift 2
            ;;
        --dry-run) dry_run=1 && shift ;;
        --help | -h) usage && exit 0 ;;
        *) usage >&2 && code=2 fail "unknown argument: $1" ;;
    esac
done

run() {
    if [[ -n $dry_run ]]; then
        echo "would run: $*"
    else
        "$@"
    fi
}

program=$root/opt/zsad-agent
config_dir=$root/etc/zsad-agent
share=$root/usr/local/share
unit_dir=$root/etc/systemd/system

# --- Checks before anything is changed -------------------------------------------------------------------------------

[[ -n $dry_run || -n $root || $(id -u) -eq 0 ]] || fail "must be root: sudo $0 (or --dry-run to see the steps)"
[[ ! -e $root/usr/lib/systemd/system/zsad-agent.service ]] ||
    fail "the Debian package zsad-agent is installed. Update it, or remove it first: apt-get remove zsad-agent"

if [[ -n $wheel ]]; then
    [[ -f $wheel ]] || fail "$wheel: no such wheel"
else
    [[ -f $here/../pyproject.toml ]] || fail "$here is not in a checkout: name a wheel with --wheel"
fi

# The service cannot see a Python below a home folder (ProtectHome=yes).
usable_python() {
    "$1" - "$root" 2>/dev/null <<'PROGRAM'
import sys
hidden = sys.argv[1] == "" and sys.base_prefix.startswith(("/home/", "/root/"))
sys.exit(hidden or sys.version_info < (3, 11))
PROGRAM
}

if [[ -n $python ]]; then
    usable_python "$python" || fail "--python $python: needed is Python >= 3.11 that is not below /home or /root"
else
    for python in /usr/bin/python3{,.14,.13,.12,.11} /usr/local/bin/python3{,.14,.13,.12,.11} python3 none; do
        usable_python "$python" && break
    done
    [[ $python != none ]] || fail "no Python >= 3.11 found outside /home and /root. Install one, e.g. apt-get install" \
        "python3.11 python3.11-venv, or name it with --python"
fi
"$python" -c 'import ensurepip, venv' 2>/dev/null ||
    fail "$python cannot make a virtual environment: apt-get install" \
        "$("$python" -c 'import sys; print(f"python{sys.version_info.major}.{sys.version_info.minor}-venv")')"

# --- User and folders ------------------------------------------------------------------------------------------------

config_owner=()
if [[ -z $root ]]; then
    config_owner=(-o root -g zsad-agent)
    for group in video render; do # the unit names them and does not start without them
        getent group "$group" >/dev/null || run groupadd --system "$group"
    done
    getent passwd zsad-agent >/dev/null ||
        run useradd --system --user-group --home-dir /var/lib/zsad-agent --no-create-home --shell /usr/sbin/nologin zsad-agent
fi
run install -d -m 755 "$program" "$unit_dir"
run install -d -m 2775 "${config_owner[@]}" "$config_dir" # the page writes the config

# --- Program: a new environment beside the running one, then an atomic switch ----------------------------------------

venv=$program/venv-$(date -u +%Y%m%dT%H%M%SZ)
scratch=$(mktemp -d)
incomplete=$venv
cleanup() {
    rm -rf "$scratch"
    [[ -z $incomplete || -n $dry_run ]] || rm -rf "$incomplete"
}
trap cleanup EXIT

echo "Building $venv with $("$python" --version) ..."
run "$python" -m venv "$venv"
if [[ -n $wheel ]]; then
    run "$venv/bin/python" -m pip install --disable-pip-version-check -q "$wheel"
else
    # Build from a copy: a build leaves files behind, and files of an earlier build would be packed too.
    for part in pyproject.toml README.md LICENSE agent core training convert; do
        cp -R "$here/../$part" "$scratch/"
    done
    run "$venv/bin/python" -m pip install --disable-pip-version-check -q -c "$here/../constraints.txt" "$scratch"
fi

[[ -e $config_dir/agent.yaml ]] || run install -m 660 "${config_owner[@]}" "$here/agent.yaml" "$config_dir/agent.yaml"
run "$venv/bin/zsad-agent" check --config "$config_dir/agent.yaml" ||
    fail "the new version does not accept $config_dir/agent.yaml (see above), so nothing was replaced. Correct it and run this script again."

run sync -f "$venv" # a power cut soon after this must not leave empty files
run ln -sfn "${venv##*/}" "$program/venv.next"
run mv -T "$program/venv.next" "$program/venv"
incomplete=''

# --- Command ---------------------------------------------------------------------------------------------------------

run install -d -m 755 "$root/usr/local/bin" "$share/man/man1" "$share/bash-completion/completions"
run ln -sfn "${program#"$root"}/venv/bin/zsad-agent" "$root/usr/local/bin/zsad-agent"
if [[ -z $dry_run ]]; then
    "$venv/bin/python" -m zsad_agent.cli.man_page >"$share/man/man1/zsad-agent.1"
    "$venv/bin/python" -c 'from importlib.resources import files; print(files("zsad_agent.cli").joinpath("completion.bash").read_text(), end="")' \
        >"$share/bash-completion/completions/zsad-agent"
fi

# --- Service ---------------------------------------------------------------------------------------------------------

run install -m 644 "$here/zsad-agent.service" "$unit_dir/zsad-agent.service"
if [[ -z $root && -d /run/systemd/system ]]; then
    run systemctl daemon-reload
    if [[ $(systemctl is-active zsad-agent) =~ ^(active|activating|reloading)$ ]]; then
        run systemctl restart zsad-agent
        echo "Restarted with the new version."
    fi
fi
run sync -f "$program"
# Last, because the old version still starts camera processes until the restart.
for old in "$program"/venv-*; do
    [[ $old == "$venv" || ! -d $old ]] || run rm -rf "$old"
done

[[ -z $dry_run ]] || exit 0
cat <<TEXT
Installed. Next:
  1. zsad-agent init --out $config_dir/agent.yaml --force
  2. systemctl enable --now zsad-agent
  3. zsad-agent doctor
If you have no broker yet: apt-get install mosquitto
TEXT
