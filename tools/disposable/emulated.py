"""A host as a virtual machine: a copy of its root under qemu's software emulation, with its own kernel and cgroup v2.

Ten to twenty times slower than the machine, which is enough to ask what only a kernel can answer.
"""

from __future__ import annotations

import json
import socket
import subprocess
import zlib
from pathlib import Path

from tools.disposable.system import Refused, run, succeeds

NEEDED = {"qemu-system-x86_64": "qemu-system-x86", "mkfs.ext4": "e2fsprogs"}
# From the host's own suite, as on a rented machine. Its initrd finds virtio disks.
KERNEL = "linux-image-cloud-amd64"
CORES = 2
MEMORY = "3G"
# Sparse: takes what the root takes.
DISK = "12G"


class Machine:
    def __init__(self, folder: Path, root: Path, interface: str, bridge: str):
        self._disk = folder / "disk.img"
        self._monitor = folder / "monitor"
        self._root = root
        self._bridge = bridge
        self._interface = interface
        # As nspawn does it: a name that the kernel can take, at most 15 characters, and the long one beside it.
        digest = f"{zlib.crc32(interface.encode()):08x}"
        self._tap = f"bp-tap-{digest}"
        # The first three bytes say that it is qemu's.
        self._mac = f"52:54:00:{digest[:2]}:{digest[2:4]}:{digest[4:6]}"

    def make_disk(self) -> None:
        """From what the host's root holds now; what an earlier machine wrote is forgotten."""
        if not self._kernels():
            self._install_kernel()
        self._disk.unlink(missing_ok=True)
        run("mkfs.ext4", "-q", "-d", str(self._root), str(self._disk), DISK)

    def plug_in(self) -> None:
        self.unplug()
        run("ip", "tuntap", "add", "mode", "tap", "name", self._tap)
        run("ip", "link", "property", "add", "dev", self._tap, "altname", self._interface)
        run("ip", "link", "set", self._tap, "master", self._bridge, "up")

    def unplug(self) -> None:
        if succeeds("ip", "link", "show", self._tap):
            run("ip", "link", "delete", self._tap)
        self._monitor.unlink(missing_ok=True)

    def command(self) -> list[str]:
        kernel = self._kernels()[-1]
        initrd = kernel.with_name(kernel.name.replace("vmlinuz", "initrd.img"))
        return [
            "qemu-system-x86_64",
            # What a machine in the cloud has, and nothing that takes time at boot.
            *("-nodefaults", "-no-user-config", "-machine", "q35", "-display", "none"),
            *("-accel", "tcg,thread=multi", "-cpu", "max", "-smp", str(CORES), "-m", MEMORY),
            *("-kernel", str(kernel), "-initrd", str(initrd)),
            # Guards against leaks between programs cost an emulated processor most.
            *("-append", "root=/dev/vda rw console=ttyS0 net.ifnames=0 mitigations=off"),
            # A write that the guest was told is safe survives its reset, not this machine's: it is disposable.
            *("-drive", f"file={self._disk},format=raw,if=virtio,cache=unsafe"),
            *("-netdev", f"tap,id=network,ifname={self._tap},script=no,downscript=no"),
            *("-device", f"virtio-net-pci,netdev=network,mac={self._mac},romfile="),
            *("-device", "virtio-rng-pci"),
            # What the tool that starts it keeps in console.log.
            *("-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"),
            *("-qmp", f"unix:{self._monitor},server=on,wait=off"),
        ]

    def runs(self) -> bool:
        return self._monitor.exists()

    def press(self, button: str) -> None:
        """`system_powerdown` asks the guest to stop; `system_reset` gives it no time to."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(10)
            connection.connect(str(self._monitor))
            lines = connection.makefile("r")
            lines.readline()  # the greeting
            for order in ("qmp_capabilities", button):
                connection.sendall(json.dumps({"execute": order}).encode())
                while "return" not in (answer := json.loads(lines.readline())):
                    if "error" in answer:
                        raise Refused(f"qemu refused {order}: {answer['error']['desc']}")

    def _kernels(self) -> list[Path]:
        return sorted((self._root / "boot").glob("vmlinuz-*"))

    def _install_kernel(self) -> None:
        print(f"installing {KERNEL} on the host's disk", flush=True)
        inside = ["systemd-nspawn", "--quiet", "--as-pid2", "--pipe", "--keep-unit", "--register=no", "--settings=no"]
        inside += ["--resolv-conf=off", "--setenv=DEBIAN_FRONTEND=noninteractive", f"--directory={self._root}"]
        for arguments in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", KERNEL]):
            done = subprocess.run(
                [*inside, "apt-get", *arguments], check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL
            )
            if done.returncode != 0:
                raise Refused(f"apt-get {arguments[0]} on the host's disk failed: {done.stderr.strip()}")
