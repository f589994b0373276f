#!/usr/bin/env bash
# Builds two packages for Debian 12 that install without a network: zsad-agent_VERSION_ARCH.deb, the program and every
# Python package that it needs, without torch; and zsad-agent-plant_VERSION_ARCH.deb, those of the extra `plant`.
set -euo pipefail
umask 022

usage() {
    cat <<'TEXT'
Usage: build.sh [--arch amd64|arm64] [--out DIR]

  --arch ARCH  processor of the devices; default: that of this machine
  --out DIR    folder of the packages; default: dist

Needs dpkg-deb, and Python 3.11 or newer with pip (the variable PYTHON names another than python3). Fetches the Python
packages of constraints.txt as wheels for Debian 12.
TEXT
}

fail() {
    echo "build.sh: $*" >&2
    exit "${code:-1}"
}

deb=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
checkout=${deb%/*/*}
out=$checkout/dist arch=$(dpkg --print-architecture)
while [[ $# -gt 0 ]]; do
    case $1 in
        --arch | --out)
            [[ -n ${2:-} ]] || code=2 fail "$1 needs a value"
            declare "${1#--}=$2"
            shift 2
            ;;
        --help | -h) usage && exit 0 ;;
        *) usage >&2 && code=2 fail "unknown argument: $1" ;;
    esac
done
case $arch in
    amd64) machine=x86_64 ;;
    arm64) machine=aarch64 ;;
    *) code=2 fail "--arch $arch: expected amd64 or arm64" ;;
esac
python=${PYTHON:-python3}
"$python" -c 'import pip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
    fail "$python: needed is Python >= 3.11 with pip: apt-get install python3-pip"

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
package=$scratch/package
venv=$package/opt/zsad-agent/venv # as install.sh makes it, so that the unit is the same
site=$venv/lib/python3.11/site-packages
plant=$scratch/plant
install -d "$scratch/source" "$venv/bin" "$site" "$package/DEBIAN" "$package/usr/bin" \
    "$package/usr/lib/systemd/system" "$package/usr/share/"{zsad-agent,doc/zsad-agent,man/man1} \
    "$package/usr/share/bash-completion/completions"

# --- Program ---------------------------------------------------------------------------------------------------------

for part in pyproject.toml README.md LICENSE agent core training convert; do # a build leaves files in its source
    cp -R "$checkout/$part" "$scratch/source/"
done
"$python" -m pip wheel --disable-pip-version-check -q --no-deps -w "$scratch" "$scratch/source"
# Debian 12 has glibc 2.36 and Python 3.11.
platforms=(--platform "manylinux2014_$machine")
for minor in {17..36}; do platforms+=(--platform "manylinux_2_${minor}_$machine"); done
install_wheels() { # FOLDER REQUIREMENT...
    "$python" -m pip install --disable-pip-version-check -q --no-compile --target "$1" "${platforms[@]}" \
        --python-version 3.11 --implementation cp --only-binary=:all: -c "$checkout/constraints.txt" "${@:2}"
}
install_wheels "$site" "$scratch"/zsad_agent-*.whl
rm -rf "${site:?}/bin" "$site/openvino/include" "$site/openvino/cmake"
[[ ! -e $site/torch ]] || fail "a dependency brought torch"

ln -s /usr/bin/python3.11 "$venv/bin/python"
printf 'home = /usr/bin\ninclude-system-site-packages = false\nversion = 3.11\n' >"$venv/pyvenv.cfg"
cat >"$venv/bin/zsad-agent" <<'PROGRAM'
#!/opt/zsad-agent/venv/bin/python
import sys

from zsad_agent.cli.main import main

sys.exit(main())
PROGRAM
chmod 755 "$venv/bin/zsad-agent"
ln -s /opt/zsad-agent/venv/bin/zsad-agent "$package/usr/bin/zsad-agent"

# --- Files beside it -------------------------------------------------------------------------------------------------

install -m 644 "$checkout/systemd/zsad-agent.service" "$package/usr/lib/systemd/system/"
install -m 644 "$checkout/systemd/agent.yaml" "$checkout/systemd/mosquitto-acl.example" "$package/usr/share/zsad-agent/"
install -m 644 "$checkout/LICENSE" "$package/usr/share/doc/zsad-agent/copyright"
install -m 644 "$site/zsad_agent/cli/completion.bash" "$package/usr/share/bash-completion/completions/zsad-agent"
PYTHONPATH=$site PYTHONDONTWRITEBYTECODE=1 "$python" -m zsad_agent.cli.man_page |
    gzip -9n >"$package/usr/share/man/man1/zsad-agent.1.gz"

# --- The extra `plant` -----------------------------------------------------------------------------------------------

plant_site=$plant/${site#"$package"/}
readarray -t extra < <("$python" -c 'import sys, tomllib
print(*tomllib.load(open(sys.argv[1], "rb"))["project"]["optional-dependencies"]["plant"], sep="\n")' "$checkout/pyproject.toml")
install_wheels "$plant_site" "${extra[@]}"
rm -rf "${plant_site:?}/bin"
(cd "$plant_site" && find . -type f) | while read -r file; do # constraints.txt gives both the same versions
    [[ ! -e $site/$file ]] || rm "$plant_site/$file"
done
find "$plant_site" -type d -empty -delete
install -Dm 644 "$checkout/LICENSE" "$plant/usr/share/doc/zsad-agent-plant/copyright"

# --- Packages --------------------------------------------------------------------------------------------------------

version=$(PYTHONPATH=$site "$python" -c 'from importlib.metadata import version; print(version("zsad-agent"))')
install -m 755 "$deb"/{preinst,postinst,prerm,postrm} "$package/DEBIAN/"
cat >"$package/DEBIAN/control" <<CONTROL
Package: zsad-agent
Version: $version
Architecture: $arch
Maintainer: The zsad-agent authors
Section: science
Priority: optional
Depends: python3 (>= 3.11), python3 (<< 3.12), libstdc++6, passwd
Suggests: zsad-agent-plant, mosquitto, libaravis-0.8-0
Installed-Size: $(du -sk "$package" | cut -f1)
Description: $(sed -n 's/^description = "\(.*\)"$/\1/p' "$checkout/pyproject.toml")
 A service that inspects parts in front of a camera. It needs no internet: the
 Python packages and the model that it uses are in this package.
CONTROL

install -d "$plant/DEBIAN" "$out"
install -m 755 "$deb/plant-postinst" "$plant/DEBIAN/postinst"
install -m 755 "$deb/plant-prerm" "$plant/DEBIAN/prerm"
cat >"$plant/DEBIAN/control" <<CONTROL
Package: zsad-agent-plant
Version: $version
Architecture: $arch
Maintainer: The zsad-agent authors
Section: science
Priority: optional
Depends: zsad-agent (= $version)
Installed-Size: $(du -sk "$plant" | cut -f1)
Description: OPC UA and digital outputs for zsad-agent
 The Python packages that plant.opcua and plant.gpio need. It needs no internet.
CONTROL

for folder in "$package" "$plant"; do
    name=$(sed -n 's/^Package: //p' "$folder/DEBIAN/control")
    dpkg-deb --root-owner-group -Zzstd -z12 --build "$folder" "$out/${name}_${version}_$arch.deb"
done
