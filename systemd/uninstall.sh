#!/usr/bin/env bash
# Removes what install.sh made. Config, data and the user stay, so that a later install can use them.
set -euo pipefail

usage() {
    cat <<'TEXT'
Usage: uninstall.sh [--purge] [--dry-run] [--root DIR]

  --purge     also remove config (/etc/zsad-agent), unsent results (/var/lib/zsad-agent), cache and user
  --dry-run   print the steps, change nothing
  --root DIR  the DIR that was given to install.sh
TEXT
}

fail() {
    echo "uninstall.sh: $*" >&2
    exit "${code:-1}"
}

purge='' dry_run='' root=''
while [[ $# -gt 0 ]]; do
    case $1 in
        --root)
            [[ -n ${2:-} ]] || code=2 fail "$1 needs a value"
            root=$2
            shift 2
            ;;
        --purge) purge=1 && shift ;;
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

[[ -n $dry_run || -n $root || $(id -u) -eq 0 ]] || fail "must be root: sudo $0 (or --dry-run to see the steps)"

unit=$root/etc/systemd/system/zsad-agent.service
on_systemd=''
[[ -n $root || ! -d /run/systemd/system ]] || on_systemd=1

if [[ -n $on_systemd && -e $unit ]]; then
    run systemctl disable --now zsad-agent
fi
run rm -f "$unit"
run rm -rf "$root/opt/zsad-agent"
run rm -f "$root/usr/local/bin/zsad-agent" "$root/usr/local/share/man/man1/zsad-agent.1" \
    "$root/usr/local/share/bash-completion/completions/zsad-agent"
[[ -z $on_systemd ]] || run systemctl daemon-reload

removed=${dry_run:+Would have removed}
removed=${removed:-Removed}
if [[ -n $purge ]]; then
    run rm -rf "$root/etc/zsad-agent" "$root/etc/systemd/system/zsad-agent.service.d" "$root/var/lib/zsad-agent" "$root/var/cache/zsad-agent"
    if [[ -z $root ]] && getent passwd zsad-agent >/dev/null; then
        run userdel zsad-agent
    fi
    echo "$removed the agent, its config, data and user."
else
    echo "$removed the agent. Kept: $root/etc/zsad-agent, $root/var/lib/zsad-agent, $root/var/cache/zsad-agent (--purge removes them)."
fi
