#!/usr/bin/python
"""Ansible module: which NVIDIA GPUs a host has, and what of their driver is there. Changes nothing."""

from __future__ import annotations

DOCUMENTATION = """
module: host_gpus
short_description: Finds NVIDIA GPUs by their PCI class, with or without a driver
description:
  - Needs no root and no program of NVIDIA's. Returns the fact C(nvidia).
  - C(gpus) in the order of their PCI addresses, each with C(address), C(device) (the PCI id as a number), C(bound) (the
    kernel driver that has it, or nothing) and, once NVIDIA's driver has it, C(minor) (the N of /dev/nvidiaN) and
    C(uuid).
  - C(loaded), the version of the driver in the kernel, C(libraries), those of its libraries, C(kernel), that which
    runs, and C(module_kernels), those that modules are installed for.
  - C(packages), NVIDIA's that are installed, C(kernel_packages), those that bring new kernels, and C(held) of both.
options:
  root:
    description: Where the host's files are read. For tests.
    type: path
    default: /
"""

import glob
import os
import re

from ansible.module_utils.basic import AnsibleModule

NVIDIA = "0x10de"
DISPLAYS = ("0x0300", "0x0302")  # PCI classes: VGA and 3D controllers
# The driver writes question marks until it has spoken with the GPU.
UUID = re.compile(r"^GPU UUID:\s*(GPU-[0-9a-f-]+)\s*$", re.MULTILINE)
MINOR = re.compile(r"^Device Minor:\s*(\d+)\s*$", re.MULTILINE)
NVIDIA_PACKAGE = re.compile(r"(lib)?nvidia-.+|linux-(modules|objects|signatures)-nvidia-.+")
# linux-image-generic, linux-image-generic-hwe-24.04, linux-image-aws, and not linux-image-6.8.0-45-generic.
KERNEL_PACKAGE = re.compile(r"linux-image-[a-z]+(-[a-z]+|-\d+\.\d+)*")


class Host:
    """What is read from the host's files, below `root`."""

    def __init__(self, root="/"):
        self.root = root

    def read(self, name):
        """Empty for a file that is not there."""
        try:
            with open(os.path.join(self.root, name), errors="replace") as file:
                return file.read()
        except OSError:
            return ""

    def find(self, pattern):
        return sorted(glob.glob(os.path.join(self.root, pattern)))

    @property
    def gpus(self):
        # A container sees the bus of the machine that carries it, whose GPUs are not its own.
        if os.path.exists(os.path.join(self.root, "run/systemd/container")):
            return []
        return [self.gpu(path) for path in self.find("sys/bus/pci/devices/*") if self._is_gpu(path)]

    def _is_gpu(self, path):
        vendor, kind = (self.read(os.path.join(path, name)).strip() for name in ("vendor", "class"))
        return vendor == NVIDIA and kind.startswith(DISPLAYS)

    def gpu(self, path):
        address = os.path.basename(path)
        driver = os.path.join(path, "driver")
        told = self.read(f"proc/driver/nvidia/gpus/{address}/information")
        uuid, minor = UUID.search(told), MINOR.search(told)
        return {
            "address": address,
            "device": int(self.read(os.path.join(path, "device")).strip() or "0", 16),
            "bound": os.path.basename(os.readlink(driver)) if os.path.islink(driver) else "",
            "uuid": uuid[1] if uuid else "",
            "minor": int(minor[1]) if minor else None,
        }

    @property
    def loaded(self):
        found = re.search(r"Module\s+(?:for \S+\s+)?(\d+(?:\.\d+)+)", self.read("proc/driver/nvidia/version"))
        return found[1] if found else ""

    @property
    def libraries(self):
        return [path.split(".so.")[1] for path in self.find("usr/lib/x86_64-linux-gnu/libnvidia-ml.so.*.*")]

    @property
    def module_kernels(self):
        kernels = self.find("lib/modules/*/modules.dep")
        return [path.split("/")[-2] for path in kernels if "/nvidia.ko" in self.read(path)]

    @property
    def packages(self):
        """Names of those that are installed, each with whether it is held."""
        records = self.read("var/lib/dpkg/status").split("\n\n")
        found = [re.search(r"^Package: (\S+)$[\s\S]*?^Status: (\S+) ok installed$", each, re.M) for each in records]
        return {each[1]: each[2] == "hold" for each in found if each}


def look(host):
    packages = host.packages
    nvidia = sorted(name for name in packages if NVIDIA_PACKAGE.fullmatch(name))
    kernels = sorted(name for name in packages if KERNEL_PACKAGE.fullmatch(name))
    return {
        "gpus": host.gpus,
        "loaded": host.loaded,
        "libraries": host.libraries,
        "kernel": host.read("proc/sys/kernel/osrelease").strip(),
        "module_kernels": host.module_kernels,
        "packages": nvidia,
        "kernel_packages": kernels,
        "held": [name for name in nvidia + kernels if packages[name]],
    }


def main():
    module = AnsibleModule(argument_spec={"root": {"type": "path", "default": "/"}}, supports_check_mode=True)
    module.exit_json(changed=False, ansible_facts={"nvidia": look(Host(module.params["root"]))})


if __name__ == "__main__":
    main()
