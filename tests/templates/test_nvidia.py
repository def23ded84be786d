"""Which driver each release and generation gets, as data; and the files that a host with GPUs gets."""

from __future__ import annotations

import itertools
import re
import subprocess

import pytest

GENERATIONS = ["kepler", "maxwell", "pascal", "volta", "turing", "ampere", "ada", "hopper", "blackwell"]
RELEASES = ["jammy", "noble", "resolute", "bullseye", "bookworm", "trixie"]
PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]+")
# One that was sold of each, by its PCI id.
SOLD = {
    0x1004: "kepler",  # GTX 780
    0x17C2: "maxwell",  # Titan X
    0x15F8: "pascal",  # P100
    0x1B06: "pascal",  # GTX 1080 Ti
    0x1DB4: "volta",  # V100
    0x1EB8: "turing",  # T4
    0x2182: "turing",  # GTX 1660 Ti
    0x20B2: "ampere",  # A100
    0x2236: "ampere",  # A10
    0x25B6: "ampere",  # A2
    0x26B9: "ada",  # L40S
    0x27B8: "ada",  # L4
    0x2330: "hopper",  # H100 SXM5
    0x2335: "hopper",  # H200
    0x2901: "blackwell",  # B200
    0x2BB1: "blackwell",  # RTX PRO 6000
    0x3182: "blackwell",  # B300
    0x9999: "unknown",
}
HOST = {"packages": [], "kernel_packages": ["linux-image-generic"], "held": [], "loaded": "", "libraries": []}


@pytest.fixture
def nvidia(evaluate):
    """What an expression comes to on a host with these devices."""

    def nvidia(expression, release="noble", devices=(0x2330,), seen=None, **settings):
        gpus = [{"address": f"0000:{0x17 + n:x}:00.0", "device": each} for n, each in enumerate(devices)]
        facts = {"distribution_release": release, "nvidia": HOST | {"gpus": gpus} | (seen or {})}
        return evaluate("nvidia", "{{ " + expression + " }}", ansible_facts=facts, **settings)

    return nvidia


@pytest.mark.parametrize(("device", "generation"), list(SOLD.items()), ids=[f"{number:04x}" for number in SOLD])
def test_a_device_is_of_the_generation_that_it_was_sold_as(nvidia, device, generation):
    assert nvidia("__nvidia_found", devices=[device]) == [generation]


def test_no_device_is_of_two_generations(nvidia):
    ranges = sorted((each["first"], each["last"]) for each in nvidia("__nvidia_generations"))

    assert all(first <= last for first, last in ranges)
    assert all(one[1] < other[0] for one, other in itertools.pairwise(ranges))


def test_data_is_there_for_every_release_and_generation(nvidia, evaluate):
    supported = nvidia("__nvidia_supported")

    assert sorted(nvidia("__nvidia_releases")) == sorted(evaluate("base", "{{ __base_releases }}")) == sorted(RELEASES)
    assert {each["name"] for each in nvidia("__nvidia_generations")} == set(GENERATIONS)
    assert set(supported) == {*GENERATIONS, "unknown"}
    assert all(isinstance(each, int) or len(each.split()) > 3 for each in supported.values())


@pytest.mark.parametrize("release", RELEASES)
def test_every_release_and_generation_has_packages_or_a_reason(nvidia, release):
    # A host that has one of each.
    one_of_each = {name: number for number, name in SOLD.items() if name in GENERATIONS}

    refusals = nvidia("__nvidia_refusals", release, one_of_each.values())
    chosen = nvidia("__nvidia_chosen", release, one_of_each.values())

    reasons = [reason.split()[2].rstrip(":") for reason in refusals if reason.startswith("0000:")]
    assert sorted(reasons) == ["kepler", "maxwell", "pascal", "volta"]
    assert (len(refusals) > len(reasons)) is (release in ("bullseye", "bookworm", "trixie"))
    assert all(PACKAGE.fullmatch(name) for name in chosen)


@pytest.mark.parametrize("release", ["jammy", "noble", "resolute"])
def test_modules_are_prebuilt_open_and_of_the_kernels_flavour(nvidia, release):
    hwe = {"kernel_packages": ["linux-image-generic-hwe-24.04"]}

    assert nvidia("__nvidia_chosen", release, seen=hwe) == [
        "linux-modules-nvidia-580-server-open-generic-hwe-24.04",
        "nvidia-compute-utils-580-server",
        "nvidia-utils-580-server",
        "libnvidia-compute-580-server",
    ]


@pytest.mark.parametrize("release", ["jammy", "noble", "resolute"])
def test_branches_of_a_release_are_known_or_ended_and_lead_to_one_that_is_known(nvidia, release):
    here = nvidia(f"__nvidia_releases.{release}")

    assert set(here["branches"]) & set(here["ended"]) == set()
    assert set(here["ended"].values()) <= set(here["branches"])
    assert nvidia("nvidia_branch") in here["branches"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"nvidia_branch": 570}, "branch 570 has ended: its packages are empty and bring 580"),
        ({"nvidia_branch": 590}, "branch 590 has ended: its packages are empty and bring 595"),
        ({"nvidia_branch": 999}, "nvidia_branch can be 580 or 595"),
        ({"seen": {"kernel_packages": []}}, "no package that brings kernels"),
        ({"release": "bookworm"}, "the engine needs 580"),
        ({"release": "plucky"}, "no driver is known for this release"),
        ({"devices": [0x1DB4]}, "0000:17:00.0 is volta: CUDA 13"),
        ({"devices": [0x2330, 0x1DB4]}, "0000:18:00.0 is volta"),
        ({"devices": [0x9999]}, "no generation is known"),
        ({"devices": [0x2901], "nvidia_branch": 570}, "needs branch 580"),
        ({"devices": [0x1DB4], "nvidia_install": False}, "0000:17:00.0 is volta"),
    ],
)
def test_what_does_not_do_is_refused_in_words(nvidia, settings, said):
    assert said in ". ".join(nvidia("__nvidia_refusals", **settings))


@pytest.mark.parametrize("settings", [{"nvidia_packages": ["nvidia-open"]}, {"nvidia_install": False}])
def test_who_brings_a_driver_is_not_asked_for_release_or_kernel(nvidia, settings):
    assert nvidia("__nvidia_refusals", "bookworm", seen={"kernel_packages": []}, **settings) == []


def test_kernel_and_driver_are_held_together(nvidia):
    seen = {
        "packages": ["nvidia-utils-580-server", "libnvidia-compute-580-server"],
        "held": ["nvidia-utils-580-server"],
    }

    assert nvidia("__nvidia_to_hold", seen=seen) == ["libnvidia-compute-580-server", "linux-image-generic"]


@pytest.fixture
def blacklist(render, tmp_path):
    """The patterns that unattended-upgrades is told, as apt reads them."""
    path = tmp_path / "apt.conf"
    path.write_text(render("nvidia", "etc/apt/apt.conf.d/52bedplate-nvidia.j2"))
    command = ["apt-config", "dump", "--no-empty", "--format=%v%n", "Unattended-Upgrade::Package-Blacklist"]
    dump = subprocess.run(command, env={"APT_CONFIG": str(path)}, capture_output=True, text=True, check=True)
    return [re.compile(line) for line in dump.stdout.split()]


@pytest.mark.parametrize("flavour", ["generic", "generic-hwe-24.04", "aws", "azure", "gcp", "oracle"])
def test_unattended_upgrades_keep_away_from_driver_and_kernel(nvidia, blacklist, flavour):
    kernel = f"linux-image-{flavour}"
    names = [*nvidia("__nvidia_chosen", seen={"kernel_packages": [kernel]}), kernel, f"linux-{flavour}"]

    # As unattended-upgrades asks.
    assert [name for name in names if not any(pattern.match(name) for pattern in blacklist)] == []


@pytest.mark.parametrize("name", ["openssl", "linux-libc-dev", "linux-firmware", "libnvme1", "nginx"])
def test_unattended_upgrades_take_the_rest(blacklist, name):
    assert not any(pattern.match(name) for pattern in blacklist)
