"""The role nvidia on a real host: GPUs are files of a directory, its packages small ones that are made here.

What runs for real: apt, dpkg's holds, the files, systemd, mknod. What stands in: the PCI bus, modprobe and the driver's
programs, which say what they were told.
"""

import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import yaml
from fleet_on_trial import REPOSITORY, FleetOnTrial

BIN = Path(sys.executable).parent
KERNEL = "6.8.0-45-generic"
OLD, NEW = "580.95.05", "580.105.08"
# The host's files as the role sees them: its own, and a bus with two GPUs.
GPUS = f"""
mkdir -p /srv/gpus/var/lib /srv/gpus/dev /srv/gpus/proc/sys/kernel
ln -s /usr /srv/gpus/usr && ln -s /usr/lib /srv/gpus/lib && ln -s /var/lib/dpkg /srv/gpus/var/lib/dpkg
echo {KERNEL} > /srv/gpus/proc/sys/kernel/osrelease
for address in 0000:17:00.0 0000:ca:00.0; do
    mkdir -p /srv/gpus/sys/bus/pci/devices/$address
    cd /srv/gpus/sys/bus/pci/devices/$address
    echo 0x10de > vendor && echo 0x030200 > class && echo 0x2330 > device
done
"""
MODPROBE = f"""#!/bin/sh
echo "$@" >> /srv/gpus/loaded
proc=/srv/gpus/proc/driver/nvidia
mkdir -p $proc/gpus/0000:17:00.0 $proc/gpus/0000:ca:00.0
echo "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  {OLD}  Release Build" > $proc/version
printf 'GPU UUID: \\t GPU-0a\\nDevice Minor: \\t 1\\n' > $proc/gpus/0000:17:00.0/information
printf 'GPU UUID: \\t GPU-0b\\nDevice Minor: \\t 0\\n' > $proc/gpus/0000:ca:00.0/information
printf '  1 mem\\n195 nvidia\\n511 nvidia-uvm\\n' > /srv/gpus/proc/devices
"""
# As Ubuntu's: without persistence, and ended when nobody wants it.
PERSISTENCED = """
[Unit]
StopWhenUnneeded=true
[Service]
Type=forking
ExecStart=/usr/bin/nvidia-persistenced --user nvidia-persistenced --no-persistence-mode --verbose
"""
MODULES = "linux-modules-nvidia-580-server-open-generic"
LIBRARIES = "libnvidia-compute-580-server"


def packages(version):
    """By name: the description, and the files of it with their modes."""
    return {
        MODULES: (
            "modules",
            {
                f"usr/lib/modules/{KERNEL}/modules.dep": ("kernel/nvidia-580srv-open/nvidia.ko:\n", 0o644),
                "usr/local/sbin/modprobe": (MODPROBE, 0o755),
            },
        ),
        "nvidia-compute-utils-580-server": (
            "persistence",
            {
                "usr/bin/nvidia-persistenced": ('#!/bin/sh\necho "$@" > /run/persistence\nsleep infinity &\n', 0o755),
                "usr/lib/systemd/system/nvidia-persistenced.service": (PERSISTENCED, 0o644),
            },
        ),
        "nvidia-utils-580-server": ("tools", {}),
        LIBRARIES: ("libraries", {f"usr/lib/x86_64-linux-gnu/libnvidia-ml.so.{version}": ("", 0o644)}),
        "linux-image-generic": ("the kernel", {}),
        "nvidia-utils-570-server": ("Transitional package for nvidia-utils-580-server", {}),
    }


def repository(folder, version):
    """A repository of such packages, as a tar for a host."""
    records = []
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        for name, (description, files) in packages(version).items():
            tree, deb = folder / name, folder / f"{name}_{version}.deb"
            fields = {"Package": name, "Version": version, "Architecture": "all", "Maintainer": "tests <t@example>"}
            fields["Description"] = description
            control = "".join(f"{key}: {value}\n" for key, value in fields.items())
            for path, (content, mode) in {"DEBIAN/control": (control, 0o644), **files}.items():
                (tree / path).parent.mkdir(parents=True, exist_ok=True)
                (tree / path).write_text(content)
                (tree / path).chmod(mode)
            command = ["dpkg-deb", "--root-owner-group", "-Znone", "--build", tree, deb]
            subprocess.run(command, check=True, capture_output=True)
            data = deb.read_bytes()
            digest = hashlib.sha256(data).hexdigest()
            records.append(f"{control}Filename: ./{deb.name}\nSize: {len(data)}\nSHA256: {digest}\n")
            archive.add(deb, deb.name)
        (folder / "Packages").write_text("\n".join(records))
        archive.add(folder / "Packages", "Packages")
    return tar.getvalue()


class Host:
    def __init__(self, fleet, folder):
        self.fleet = fleet
        self.folder = folder

    def root(self, script, data=b""):
        command = ["ssh", "-F", self.fleet.access / "ssh_config", "one", "sudo", "sh", "-ec", f"'{script}'"]
        done = subprocess.run(command, input=data, capture_output=True, check=False, timeout=60)
        assert done.returncode == 0, done.stdout.decode() + done.stderr.decode()
        return done.stdout.decode()

    def offer(self, version):
        """Its only repository has the packages in this version, and apt has read it."""
        (self.folder / version).mkdir()
        self.root(
            "rm -rf /srv/repository /etc/apt/sources.list* && mkdir /srv/repository && tar -x -C /srv/repository"
            ' && echo "deb [trusted=yes] file:/srv/repository ./" > /etc/apt/sources.list && apt-get -qq update',
            repository(self.folder / version, version),
        )

    def play(self, **settings):
        """The role, as playbooks/inference.yml runs it. Returns exit status and output."""
        command = [BIN / "ansible-playbook", f"--inventory={self.folder}/hosts.yml", self.folder / "play.yml", "-e"]
        # Ubuntu's packages on whatever the host runs.
        seams = {"__nvidia_release": "noble", "__nvidia_root": "/srv/gpus"}
        command.append(json.dumps(seams | settings))
        environment = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
        run = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
        return run.returncode, " ".join(run.stdout.split())

    def versions(self):
        listed = self.root('dpkg-query --show "*nvidia*" linux-image-generic')
        # Without a version are those that others only name.
        return dict(line.split() for line in listed.splitlines() if len(line.split()) == 2)


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    fleet = FleetOnTrial("trial-nvidia")
    fleet.tool("down")
    fleet.tool("up", "one")
    folder = tmp_path_factory.mktemp("nvidia")
    group = {"hosts": {"one": {"ansible_ssh_common_args": f"-F {fleet.access}/ssh_config"}}}
    (folder / "hosts.yml").write_text(yaml.safe_dump({"all": {"children": {"inference": group}}}))
    play = {
        "hosts": "inference",
        "become": True,
        "gather_subset": ["!all", "min"],
        "roles": [{"role": str(REPOSITORY / "roles/nvidia")}],
    }
    (folder / "play.yml").write_text(yaml.safe_dump([play]))
    yield Host(fleet, folder)
    fleet.tool("down")


def test_a_host_without_a_gpu_is_told_so_and_left_as_it_is(host):
    status, output = host.play(__nvidia_root="/srv/nothing")

    assert status == 0, output
    assert "one has no NVIDIA GPU" in output
    assert "changed=0" in output


@pytest.fixture(scope="module")
def built(host):
    """The host with two GPUs, after the role ran."""
    host.root(GPUS)
    host.offer(OLD)
    host.root("apt-get -qq install linux-image-generic > /dev/null")
    status, output = host.play()
    assert status == 0, output
    return host


def test_a_transitional_package_is_refused_and_nothing_is_installed(built):
    status, output = built.play(nvidia_packages=["nvidia-utils-570-server"])

    assert status != 0
    assert "some are transitional" in output
    assert "nvidia-utils-570-server" not in built.versions()


def test_the_driver_is_installed_loaded_and_persistent_before_an_engine_starts(built):
    assert built.root("cat /srv/gpus/loaded") == "--all nvidia nvidia-uvm\n"
    assert built.root("cat /run/persistence") == "--user nvidia-persistenced --persistence-mode --verbose\n"
    assert built.root("systemctl is-active nvidia-devices nvidia-persistenced").split() == ["active", "active"]
    assert built.root("systemctl is-enabled nvidia-devices") == "enabled\n"
    assert built.root("grep -v ^# /etc/modules-load.d/bedplate-nvidia.conf").split() == ["nvidia", "nvidia-uvm"]


def test_device_nodes_are_there_with_the_numbers_of_the_driver(built):
    nodes = built.root('cd /srv/gpus/dev && stat -c "%n %t:%T %a" *')

    assert nodes.splitlines() == [
        "nvidia-uvm 1ff:0 666",
        "nvidia-uvm-tools 1ff:1 666",
        "nvidia0 c3:0 666",
        "nvidia1 c3:1 666",
        "nvidiactl c3:ff 666",
    ]


def test_driver_and_kernel_are_held_and_kept_from_unattended_upgrades(built):
    held = built.root("apt-mark showhold").split()
    told = built.root("apt-config dump Unattended-Upgrade::Package-Blacklist")

    assert held == sorted(packages(OLD).keys() - {"nvidia-utils-570-server"})
    assert "nvidia-" in told


def test_a_second_run_changes_nothing(built):
    status, output = built.play()

    assert status == 0, output
    assert "changed=0" in output


def test_a_serving_host_is_not_upgraded(built):
    target = "[Unit]\\nDescription=stands in\\n"
    built.root(f'printf "{target}" > /run/systemd/system/bedplate.target && systemctl start bedplate.target')

    status, output = built.play(nvidia_upgrade=True)
    built.root("systemctl stop bedplate.target")

    assert status != 0
    assert "one serves" in output
    assert "playbooks/drain.yml -e host=one" in output


def test_a_newer_driver_moves_only_when_told_and_the_host_is_to_be_booted(built):
    built.offer(NEW)
    built.root("apt-get -qq upgrade > /dev/null")
    kept = built.versions()

    status, output = built.play(nvidia_upgrade=True)

    assert set(kept.values()) == {OLD}
    assert set(built.versions().values()) == {NEW}
    assert status != 0
    assert f"runs driver {OLD}, and {NEW} is installed" in output
    assert "playbooks/drain.yml -e host=one" in output
    assert LIBRARIES in built.root("apt-mark showhold").split()
