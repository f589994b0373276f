#!/usr/bin/env bash
# Installs the system packages that tests use, as root or with sudo without a password.
# Otherwise it names the missing packages and the tests that are skipped. With CI=true a missing package is a failure.
set -euo pipefail

declare -A package_of=([mosquitto]=mosquitto [systemd-analyze]=systemd [shellcheck]=shellcheck [gcc]=build-essential [node]=nodejs [chromium]=chromium [curl]=curl [arv-tool-0.8]=aravis-tools-cli [promtool]=prometheus)
declare -A tests_of=(
    [mosquitto]="all tests with a real broker"
    [systemd-analyze]="the unit's syntax and hardening"
    [shellcheck]="the shell scripts"
    [gcc]="OpenCV's V4L2 code with a preloaded driver"
    [node]="the logic of the page"
    [chromium]="the page in a real browser"
    [curl]="the commands of docs/integrator.md"
    [arv-tool-0.8]="GenICam cameras (its library is used)"
    [promtool]="the alert rules, and a scrape by Prometheus"
)

missing() {
    local command
    for command in mosquitto systemd-analyze shellcheck gcc node chromium curl arv-tool-0.8 promtool; do
        command -v "$command" >/dev/null || echo "$command"
    done
}

packages=()
for command in $(missing); do
    packages+=("${package_of[$command]}")
done
[[ ${#packages[@]} -gt 0 ]] || exit 0

as_root=()
[[ $(id -u) -eq 0 ]] || as_root=(sudo -n)
if command -v apt-get >/dev/null && "${as_root[@]}" true 2>/dev/null; then
    echo "Installing for the tests: ${packages[*]}"
    { "${as_root[@]}" apt-get update -q &&
        "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${packages[@]}"; } ||
        echo "apt-get failed" >&2
fi

for command in $(missing); do
    echo "MISSING: $command. Skipped tests: ${tests_of[$command]}. To run them: apt-get install ${package_of[$command]}" >&2
done
[[ ${CI:-} != true || -z $(missing) ]]
