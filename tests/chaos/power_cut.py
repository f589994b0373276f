"""Power cuts in a virtual machine. Run by hand: `python tests/chaos/power_cut.py`.

QEMU is killed at random moments. The guest appends results to a spool on an ext4 disk and prints each number on the
console after the result is accepted. Data that the guest's kernel has not written is lost, as in a power cut. After the
next boot every accepted number must be in the spool. Needs Debian's qemu-system-x86; downloads its kernel and busybox.
The disk's own cache is not lost, so a disk with a false flush is not tested.
"""

import argparse
import random
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from chaos_record import record

MODULES = [  # kernel modules, in the order of their dependencies
    "drivers/virtio/virtio_ring",
    "drivers/virtio/virtio",
    "drivers/virtio/virtio_pci_legacy_dev",
    "drivers/virtio/virtio_pci_modern_dev",
    "drivers/virtio/virtio_pci",
    "drivers/block/virtio_blk",
    "lib/crc16",
    "crypto/crc32c_generic",
    "fs/mbcache",
    "fs/jbd2/jbd2",
    "fs/ext4/ext4",
]
BOOT_S = 180.0  # enough without hardware virtualisation on a busy machine
INIT = """#!/bin/busybox sh
b=/bin/busybox
$b mount -t proc proc /proc; $b mount -t devtmpfs dev /dev
for module in /modules/*.ko; do $b insmod $module; done
$b mount -t ext4 /dev/vda /data
task=$($b sed 's/.*guest=//;s/,/ /' /proc/cmdline)
PYTHONHOME=/python PYTHONPATH=/app /python/bin/python3 /app/power_cut_guest.py $task
$b umount /data; $b poweroff -f
"""


def make_machine(folder: Path) -> None:
    """Makes `vmlinuz` and `initrd`: a kernel, busybox, this Python and the agent's spool."""
    depends = _out("apt-cache", "depends", "linux-image-amd64")
    package = re.search(r"Depends: (linux-image-\S+)", depends)
    assert package is not None, depends
    subprocess.run(["apt-get", "download", "-q", package[1], "busybox-static"], cwd=folder, check=True)
    for deb in folder.glob("*.deb"):
        subprocess.run(["dpkg-deb", "-x", deb, folder / "packages"], check=True)
    shutil.copy(next((folder / "packages/boot").glob("vmlinuz-*")), folder / "vmlinuz")
    root = folder / "root"
    for name in ("bin", "data", "dev", "proc", "modules", "app"):
        (root / name).mkdir(parents=True)
    shutil.copy(folder / "packages/bin/busybox", root / "bin/busybox")
    kernel = next((folder / "packages/lib/modules").iterdir()) / "kernel"
    for number, module in enumerate(MODULES):
        shutil.copy(kernel / f"{module}.ko", root / f"modules/{number:02}.ko")
    _copy_python(root)
    for name in ("agent", "core"):
        shutil.copytree(ROOT / name, root / f"app/zsad_{name}", ignore=shutil.ignore_patterns("bundles", "__pycache__"))
    shutil.copy(Path(__file__).with_name("power_cut_guest.py"), root / "app")
    (root / "init").write_text(INIT)
    (root / "init").chmod(0o755)
    with (folder / "initrd").open("wb") as out:
        names = subprocess.Popen(["find", ".", "-print0"], cwd=root, stdout=subprocess.PIPE)
        archive = ["cpio", "--null", "--create", "--format=newc", "--quiet"]
        subprocess.run(archive, cwd=root, stdin=names.stdout, stdout=out, check=True)


def _copy_python(root: Path) -> None:
    """Copies the interpreter, its standard library and their shared libraries to the same paths below `root`."""
    library = Path(sysconfig.get_path("stdlib"))
    unwanted = shutil.ignore_patterns("test", "site-packages", "dist-packages", "__pycache__", "idlelib", "ensurepip")
    shutil.copytree(library, root / "python/lib" / library.name, ignore=unwanted)
    (root / "python/bin").mkdir()
    shutil.copy(Path(sys.executable).resolve(), root / "python/bin/python3")
    binaries = [Path(sys.executable).resolve(), *(library / "lib-dynload").glob("*.so")]
    for needed in set(re.findall(r"(/\S+\.so\S*) \(|^\s*(/\S+) \(", _out("ldd", *map(str, binaries)), re.MULTILINE)):
        path = Path(needed[0] or needed[1])
        (root / path.relative_to("/")).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, root / path.relative_to("/"))


class Machine:
    """One boot. `lines` maps the first word of the guest's lines to the last such line."""

    def __init__(self, folder: Path, disk: Path, guest: str) -> None:
        command = ["qemu-system-x86_64", "-m", "900", "-nographic", "-no-reboot", "-net", "none", "-accel", "tcg"]
        command += ["-kernel", str(folder / "vmlinuz"), "-initrd", str(folder / "initrd")]
        command += ["-append", f"console=ttyS0 quiet panic=-1 guest={guest}"]
        command += ["-drive", f"file={disk},if=virtio,format=raw,cache=writeback"]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        self._last: dict[str, str] = {}
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def wait_for(self, word: str) -> str:
        end_s = time.monotonic() + BOOT_S
        while word not in self._last:
            assert time.monotonic() < end_s, f"the guest did not say {word}"
            time.sleep(0.05)
        return self._last[word]

    def last(self, word: str, default: str) -> str:
        return self._last.get(word, default)

    def cut(self) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if found := re.search(r"(START|ACCEPTED|FOUND) (.*?)\s*$", line):
                self._last[found[1]] = found[2]


def cut_power(folder: Path, fsync: str, cuts: int, seed: int) -> tuple[int, int, str]:
    """(number of accepted results, number of lost ones, content of the spool at the end)."""
    draw = random.Random(seed)
    disk = folder / f"{fsync}.img"
    with disk.open("wb") as file:
        file.truncate(64_000_000)
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-F", disk], check=True)
    accepted = written = lost = 0
    for number in range(cuts):
        machine = Machine(folder, disk, f"write,{fsync}")
        start = int(machine.wait_for("START"))
        lost += max(0, accepted - start)
        time.sleep(draw.uniform(1.0, 6.0))
        machine.cut()
        accepted = max(start, int(machine.last("ACCEPTED", str(start))))
        written += accepted - start
        print(f"fsync {fsync}, cut {number + 1} of {cuts}: {written} accepted so far, {lost} lost", flush=True)
    machine = Machine(folder, disk, "check,")
    found = machine.wait_for("FOUND")
    count, last = map(int, found.split()[:2])
    lost += max(0, accepted - last) + last - count
    machine.cut()
    return written, lost, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cuts", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_machine(folder)
        for fsync in ("each", "periodic"):
            written, lost, found = cut_power(folder, fsync, args.cuts, args.seed)
            _, _, ordered, sound, aside = found.split()
            assert (ordered, sound, aside) == ("True", "ok", "0"), found
            note = f"{written} results accepted; in a virtual machine; file intact and in order after the last one"
            record(f"power cut, spool.fsync: {fsync}", tried=args.cuts, lost=lost, doubled=0, recover_s=None, note=note)
            assert fsync == "periodic" or lost == 0, f"{lost} of {written} lost"


def _out(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    main()
