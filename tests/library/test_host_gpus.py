"""GPUs and their driver, told from a directory made like a host."""

import host_gpus
import pytest

LOADED = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build  (dvs-builder)\n"
DPKG = """\
Package: {name}
Status: {wanted} ok {state}
Architecture: amd64
Description: x

"""


def pci(address, vendor="0x10de", kind="0x030200", device="0x2330"):
    folder = f"sys/bus/pci/devices/{address}"
    return {f"{folder}/vendor": f"{vendor}\n", f"{folder}/class": f"{kind}\n", f"{folder}/device": f"{device}\n"}


def information(address, uuid="GPU-5a5a", minor=0):
    text = f"Model: \t\t NVIDIA H100\nGPU UUID: \t {uuid}\nDevice Minor: \t {minor}\n"
    return {f"proc/driver/nvidia/gpus/{address}/information": text}


def dpkg(*packages):
    return {"var/lib/dpkg/status": "".join(DPKG.format(name=n, wanted=w, state=s) for n, w, s in packages)}


@pytest.fixture
def look(tmp_path):
    """look({path: text}) → what is told of such a host."""

    def look(files):
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        return host_gpus.look(host_gpus.Host(str(tmp_path)))

    return look


def test_a_host_with_nothing_of_nvidias_has_empty_lists(look):
    assert look({"proc/sys/kernel/osrelease": "6.8.0-45-generic\n"}) == {
        "gpus": [],
        "loaded": "",
        "libraries": [],
        "kernel": "6.8.0-45-generic",
        "module_kernels": [],
        "packages": [],
        "kernel_packages": [],
        "held": [],
    }


@pytest.mark.parametrize(
    ("vendor", "kind", "found"),
    [
        ("0x10de", "0x030000", True),
        ("0x10de", "0x030200", True),
        ("0x10de", "0x040300", False),
        ("0x10de", "0x068000", False),
        ("0x1002", "0x030000", False),
    ],
    ids=["VGA", "3D", "its sound", "NVSwitch", "another maker's"],
)
def test_a_gpu_is_known_by_its_class_and_maker(look, vendor, kind, found):
    assert bool(look(pci("0000:17:00.0", vendor, kind))["gpus"]) is found


def test_a_container_has_none_of_the_machine_that_carries_it(look):
    assert look(pci("0000:17:00.0") | {"run/systemd/container": "systemd-nspawn"})["gpus"] == []


def test_gpus_are_told_in_the_order_of_their_addresses_with_node_and_uuid(look):
    files = pci("0000:ca:00.0") | pci("0000:17:00.0", device="0x2bb1")
    files |= information("0000:ca:00.0", "GPU-0b", minor=0) | information("0000:17:00.0", "GPU-0a", minor=1)

    assert look(files)["gpus"] == [
        {"address": "0000:17:00.0", "device": 0x2BB1, "bound": "", "uuid": "GPU-0a", "minor": 1},
        {"address": "0000:ca:00.0", "device": 0x2330, "bound": "", "uuid": "GPU-0b", "minor": 0},
    ]


def test_a_uuid_of_question_marks_is_none(look):
    unknown = "GPU-????????-????-????-????-????????????"

    [gpu] = look(pci("0000:17:00.0") | information("0000:17:00.0", unknown))["gpus"]

    assert gpu["uuid"] == ""


def test_the_driver_that_has_a_gpu_is_told(look, tmp_path):
    look(pci("0000:17:00.0"))
    (tmp_path / "sys/bus/pci/devices/0000:17:00.0/driver").symlink_to("../../drivers/nouveau")

    [gpu] = look({})["gpus"]

    assert gpu["bound"] == "nouveau"


def test_driver_libraries_and_modules_are_told_apart(look):
    found = look(
        {
            "proc/driver/nvidia/version": LOADED,
            "usr/lib/x86_64-linux-gnu/libnvidia-ml.so.580.105.08": "",
            "usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1": "",
            "lib/modules/6.8.0-45-generic/modules.dep": "kernel/nvidia-580srv-open/nvidia.ko:\n",
            "lib/modules/6.8.0-49-generic/modules.dep": "kernel/net/x.ko:\n",
        }
    )

    assert found["loaded"] == "580.95.05"
    assert found["libraries"] == ["580.105.08"]
    assert found["module_kernels"] == ["6.8.0-45-generic"]


def test_packages_of_the_driver_and_those_that_bring_kernels_are_told_and_what_is_held(look):
    found = look(
        dpkg(
            ("libnvidia-compute-580-server", "hold", "installed"),
            ("linux-modules-nvidia-580-server-open-generic", "install", "installed"),
            ("nvidia-utils-535-server", "deinstall", "config-files"),
            ("linux-image-generic-hwe-24.04", "hold", "installed"),
            ("linux-image-generic", "install", "installed"),
            ("linux-image-6.8.0-45-generic", "install", "installed"),
            ("linux-firmware", "install", "installed"),
        )
    )

    assert found["packages"] == ["libnvidia-compute-580-server", "linux-modules-nvidia-580-server-open-generic"]
    assert found["kernel_packages"] == ["linux-image-generic", "linux-image-generic-hwe-24.04"]
    assert found["held"] == ["libnvidia-compute-580-server", "linux-image-generic-hwe-24.04"]
