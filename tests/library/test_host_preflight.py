"""What a host falls short of, told from a directory made like it. On real hosts: tests/disposable/test_preflight.py."""

import os
import shutil
import socket
import time

import host_preflight
import pytest

USER = "nobody"  # there on every machine, and nobody's login
KERNEL = "6.8.0-45-generic"
FILES = {
    "proc/cpuinfo": "".join(f"processor\t: {number}\nmodel name\t: x\n" for number in range(8)),
    "proc/meminfo": "MemTotal:       32768000 kB\nMemFree:        100 kB\n",
    "proc/sys/kernel/osrelease": f"{KERNEL}\n",
    "etc/os-release": 'PRETTY_NAME="Ubuntu 24.04.1 LTS"\nVERSION_CODENAME=noble\n',
    "etc/ssh/sshd_config": "Include /etc/ssh/sshd_config.d/*.conf\n",
    "etc/apt/sources.list": "# deb http://away.invalid/ubuntu noble main\ndeb http://localhost/ubuntu noble main\n",
    "nonexistent/.ssh/authorized_keys": "ssh-ed25519 AAAA somebody\n",
    "root/.ssh/authorized_keys": "ssh-ed25519 AAAA somebody\n",
    f"lib/modules/{KERNEL}/modules.dep": "kernel/net/x.ko:\n",
}
GPU = {
    "sys/bus/pci/devices/0000:17:00.0/vendor": "0x10de\n",
    "sys/bus/pci/devices/0000:17:00.0/class": "0x030200\n",
    # Its sound, and a network card.
    "sys/bus/pci/devices/0000:17:00.1/vendor": "0x10de\n",
    "sys/bus/pci/devices/0000:17:00.1/class": "0x040300\n",
    "sys/bus/pci/devices/0000:31:00.0/vendor": "0x8086\n",
    "sys/bus/pci/devices/0000:31:00.0/class": "0x020000\n",
}
LOADED = {
    "proc/driver/nvidia/version": (
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build  (dvs-builder)\n"
        "GCC version:  gcc version 13.3.0\n"
    ),
    "usr/lib/x86_64-linux-gnu/libnvidia-ml.so.580.95.05": "",
}
BUILT_IN_MODULE = "kernel/nvidia-580srv-open/nvidia.ko: kernel/drivers/video/video.ko\n"


@pytest.fixture
def plant(tmp_path):
    """plant({path: text}) → writes them below the host's root; None takes one away."""

    def plant(files):
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink() if text is None else path.write_text(text)

    plant(FILES)
    return plant


@pytest.fixture
def sudo(tmp_path, monkeypatch):
    """sudo(script) → that is what `sudo` does; at first it just runs commands, as without a password."""

    def sudo(script):
        path = tmp_path / "bin/sudo"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    sudo('shift; exec "$@"')
    return sudo


@pytest.fixture
def look(tmp_path, plant, sudo):
    """look(name=value …) → the findings, where a sound host has none."""

    def look(user=USER, **wanted):
        sound = {
            "root": str(tmp_path),
            "size": {"name": "production", "cores": 8, "memory_gb": 32, "disk_gb": 0},
            "disk_again_gb": 0,
            "releases": ["noble", "bookworm"],
            "kernel": "5.10",
            "clock": time.time(),
            "clock_difference_s": 30,
            "services": {},
            "groups": ["inference"],
            "names": ["localhost"],
            "address": "",
            "gpus": 0,
            "driver_required": True,
            "gpu_generations": [{"name": "volta", "first": 0x1D80, "last": 0x1DFF}],
            "gpu_refused": {"volta": "CUDA 13 needs Turing"},
            "driver_refused": {},
        }
        return host_preflight.look(sound | wanted, user)

    return look


@pytest.fixture
def port():
    """Of a socket that this program listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def checks(findings):
    return [finding["check"] for finding in findings]


def test_a_sound_host_has_no_findings(look):
    assert look() == []


@pytest.mark.parametrize(
    ("files", "check", "found"),
    [
        ({"proc/cpuinfo": "processor\t: 0\n"}, "cores", "1 cores"),
        ({"proc/meminfo": "MemTotal: 16384000 kB\n"}, "memory", "16.8 GB"),
        ({"etc/os-release": 'PRETTY_NAME="Ubuntu 20.04"\nVERSION_CODENAME=focal\n'}, "release", "Ubuntu 20.04 (focal)"),
        ({"etc/os-release": None}, "release", "no /etc/os-release"),
        (
            {"proc/sys/kernel/osrelease": "5.4.0-200\n", "lib/modules/5.4.0-200/modules.dep": ""},
            "kernel",
            "5.4.0-200",
        ),
        ({"proc/sys/kernel/osrelease": "6.8.0-49-generic\n"}, "kernel", "its modules are gone"),
        ({"etc/apt/sources.list": "deb http://away.invalid/ubuntu noble main\n"}, "name", "away.invalid"),
        (
            {"etc/apt/sources.list.d/ubuntu.sources": "Types: deb\nURIs: https://u:p@away.invalid/ubuntu\n"},
            "name",
            "away.invalid does not resolve",
        ),
        (
            {"etc/apt/apt.conf.d/proxy": 'Acquire::http::Proxy "http://proxy.invalid:3142";\n'},
            "name",
            "proxy.invalid does not resolve",
        ),
        ({"nonexistent/.ssh/authorized_keys": "# ssh-ed25519 AAAA\n"}, "login", "no key in /nonexistent/.ssh"),
        ({"etc/ssh/sshd_config": "#Include /etc/ssh/sshd_config.d/*.conf\n"}, "login", "sshd reads no drop-ins"),
    ],
)
def test_one_fault_of_a_host_is_one_finding(look, plant, files, check, found):
    plant(files)

    [finding] = look()

    assert finding["check"] == check
    assert found in finding["found"]
    assert finding["wanted"]
    assert finding["next_step"]


@pytest.mark.parametrize(
    ("wanted", "check", "found"),
    [
        ({"size": {"name": "huge", "cores": 8, "memory_gb": 32, "disk_gb": 10**6}}, "disk", "GB free"),
        ({"clock": time.time() - 3600}, "time", "s ahead of"),
        ({"clock": time.time() + 7200}, "time", "s behind"),
        ({"names": ["away.invalid"]}, "name", "away.invalid"),
        ({"gpus": 1}, "gpu", "0 NVIDIA GPUs"),
        ({"user": "root"}, "login", "root"),
    ],
)
def test_one_unmet_wish_is_one_finding(look, wanted, check, found):
    [finding] = look(**wanted)

    assert finding["check"] == check
    assert found in finding["found"]


def test_a_host_that_was_built_has_filled_its_disk_itself(look, plant):
    plant({"var/lib/host-units/nginx.service": "{}"})
    size = {"name": "production", "cores": 8, "memory_gb": 32, "disk_gb": 10**6}

    assert look(size=size, disk_again_gb=0.001) == []
    assert checks(look(size=size, disk_again_gb=10**5)) == ["disk"]


def test_a_foreign_program_on_a_port_is_named(look, port):
    web = {"port": port - 1, "count": 3, "hosts": ["inference"], "units": ["bedplate-web@*.socket"]}

    [finding] = look(services={"web": web})

    assert finding["check"] == "port"
    assert f"listens on {port}" in finding["found"]
    assert finding["found"].startswith("py")
    assert finding["setting"] == "fleet_web"


@pytest.mark.parametrize(
    "more",
    [{"units": ["*"]}, {"hosts": ["lb"]}],
    ids=["a program that may hold it", "a service of other hosts"],
)
def test_a_port_held_rightly_is_no_finding(look, port, more):
    web = {"port": port, "hosts": ["inference"], "units": ["bedplate-web@*.socket"]}

    assert look(services={"web": web | more}) == []


def test_without_sudo_a_port_is_still_seen_to_be_taken(look, sudo, port, tmp_path):
    sudo("echo 'sudo: a password is required' >&2; exit 1")
    # What it tells of another user's program.
    (tmp_path / "bin/ss").write_text(f"#!/bin/sh\nexec {shutil.which('ss')} --no-header --listening --tcp --numeric\n")
    (tmp_path / "bin/ss").chmod(0o755)

    findings = look(services={"web": {"port": port, "hosts": ["inference"], "units": ["none"]}})

    assert checks(findings) == ["port", "sudo"]
    assert findings[0]["found"] == f"an unknown program listens on {port}"
    assert "a password is required" in findings[1]["found"]


def test_sshd_has_to_listen_where_the_firewall_will_open(look, port):
    ssh = {"port": port, "hosts": ["inference"], "units": ["ssh.service"]}

    assert look(services={"ssh": ssh}) == []
    assert checks(look(services={"ssh": ssh | {"port": 1}})) == ["port"]


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({}, "none"),
        (LOADED, None),
        (
            LOADED | {"usr/lib/x86_64-linux-gnu/libnvidia-ml.so.580.95.05": None,
                      "usr/lib/x86_64-linux-gnu/libnvidia-ml.so.580.105.08": ""},
            "driver 580.95.05 in the kernel, libraries 580.105.08",
        ),
        ({f"lib/modules/{KERNEL}/modules.dep": BUILT_IN_MODULE}, f"installed for {KERNEL}, not loaded"),
        ({"lib/modules/6.8.0-31-generic/modules.dep": BUILT_IN_MODULE}, "modules for 6.8.0-31-generic"),
    ],
    ids=["none", "fitting", "other libraries", "not loaded", "for another kernel"],
)  # fmt: skip
def test_the_driver_fits_the_kernel_and_its_libraries(look, plant, files, found):
    plant(GPU | {name: text for name, text in files.items() if text is not None})

    findings = look(gpus=1)

    assert [finding["found"] for finding in findings] == ([found] if found else [])


def test_a_driver_that_the_run_installs_may_be_missing(look, plant):
    plant(GPU)

    assert look(gpus=1, driver_required=False) == []


def test_where_engines_follow_from_the_gpus_none_is_needed_and_a_driver_has_to_fit(look, plant):
    assert look(gpus=None) == []

    plant(GPU | LOADED)
    plant({"usr/lib/x86_64-linux-gnu/libnvidia-ml.so.580.95.05": None})

    assert checks(look(gpus=None, driver_required=False)) == ["driver"]


def test_a_container_has_no_gpu_of_the_machine_that_carries_it(look, plant):
    plant(GPU | {"run/systemd/container": "systemd-nspawn"})

    assert look(gpus=None) == []
    assert checks(look(gpus=1)) == ["gpu"]


def test_a_gpu_that_engines_cannot_use_is_told_with_the_reason(look, plant):
    plant(GPU | LOADED | {"sys/bus/pci/devices/0000:17:00.0/device": "0x1db4\n"})

    [finding] = look(gpus=None)

    assert (finding["check"], finding["found"]) == ("gpu", "0000:17:00.0 is volta")
    assert "CUDA 13 needs Turing" in finding["next_step"]


@pytest.mark.parametrize(("files", "told"), [(GPU, ["driver"]), (GPU | LOADED, []), ({}, [])])
def test_a_release_without_a_driver_is_told_where_one_would_be_installed(look, plant, files, told):
    plant(files)

    findings = look(gpus=None, driver_required=False, driver_refused={"noble": "it is too old"})

    assert checks(findings) == told
    assert all(finding["setting"] == "nvidia_packages" for finding in findings)


def test_gpus_are_counted_by_their_class(look, plant):
    plant(GPU | LOADED)

    [finding] = look(gpus=2)

    assert finding["found"] == "1 NVIDIA GPUs (0000:17:00.0)"


def test_without_engines_on_gpus_nobody_asks_for_a_gpu_or_its_driver(look, plant):
    plant(GPU)

    assert look(gpus=0) == []


def test_every_fault_is_told_at_once(look, plant, sudo, port):
    plant({"etc/os-release": "", "proc/meminfo": "", "proc/cpuinfo": "", "proc/sys/kernel/osrelease": "4.15.0\n"})
    sudo("exit 1")

    findings = look(
        size={"name": "production", "cores": 8, "memory_gb": 32, "disk_gb": 10**6},
        clock=0,
        services={"web": {"port": port, "hosts": ["inference"], "units": ["none"]}},
        names=["away.invalid"],
        gpus=1,
    )

    told = ["cores", "memory", "disk", "release", "kernel", "time", "port", "name", "gpu", "sudo"]
    assert checks(findings) == told


MOUNTS = "/dev/a / ext4 rw 0 0\n/dev/b /{folder} ext4 rw,nosuid,{options} 0 0\n"


@pytest.mark.parametrize("folder", ["opt", "var", "var/lib"])
def test_programs_cannot_be_run_from_a_file_system_that_is_mounted_noexec(look, plant, folder):
    plant({"proc/mounts": MOUNTS.format(folder=folder, options="noexec")})

    [finding] = look()

    assert finding["check"] == "mount"
    assert f"/{folder}, which is mounted noexec" in finding["found"]
    assert f"remount,exec /{folder}," in finding["next_step"]


@pytest.mark.parametrize(
    ("folder", "options"), [("opt", "relatime"), ("home", "noexec"), ("tmp", "noexec"), ("optional", "noexec")]
)
def test_other_mounts_are_taken(look, plant, folder, options):
    plant({"proc/mounts": MOUNTS.format(folder=folder, options=options)})

    assert look() == []


def test_an_address_that_the_host_does_not_have_is_refused_with_those_it_has(look):
    [finding] = look(address="192.0.2.77")

    assert (finding["check"], finding["setting"]) == ("address", "private_address")
    assert "192.0.2.77, and the host has 127.0.0.1" in finding["found"]


def test_an_address_of_the_host_is_taken(look):
    assert look(address="127.0.0.1") == []


def test_sudo_that_wants_a_password_is_refused_with_the_line_that_lets_the_user(look, sudo):
    sudo('echo "sudo: a password is required" >&2; exit 1')

    [finding] = look()

    assert finding["check"] == "sudo"
    assert "a password is required" in finding["found"]
    assert "NOPASSWD" in finding["next_step"]
