"""The host is what the other tests take it for."""

import shlex

import pytest

CONTROLLERS = {"cpu", "memory", "pids"}


def test_control_groups_are_version_2_with_what_the_units_need(host):
    assert host("stat --file-system --format=%T /sys/fs/cgroup").strip() == "cgroup2fs"
    assert set(host("cat /sys/fs/cgroup/cgroup.controllers").split()) >= CONTROLLERS


def test_every_unit_of_the_service_is_active(host):
    units = host("systemctl list-dependencies --plain bedplate.target").split()

    assert len(units) > 5
    assert set(host(f"systemctl is-active {' '.join(units)} || true").split()) == {"active"}


@pytest.mark.parametrize("unit", ["bedplate-engine@cpu0", "bedplate-web@1", "redis-server@cache", "nginx"])
def test_the_kernel_has_the_limit_that_the_unit_declares(host, unit):
    declared = host(f"systemctl show --property=MemoryMax --value {unit}").strip()
    group = shlex.quote(host(f"systemctl show --property=ControlGroup --value {unit}").strip())

    assert declared.isdigit()
    assert host(f"cat /sys/fs/cgroup{group}/memory.max").strip() == declared
