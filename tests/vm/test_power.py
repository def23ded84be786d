"""A host comes back by itself, asked to reboot or not asked at all."""

import subprocess
import time

import pytest

SUMS = "find /etc /opt/bedplate/current/lib/python3*/site-packages/bedplate -type f -exec sha256sum {} + | sort"


@pytest.fixture
def comes_back(host, hang_up, predict, wait_until):
    """comes_back(stop) → seconds until a right prediction; every unit runs by then or soon after."""

    def comes_back(stop):
        before = boot()
        started = time.monotonic()
        stop()
        hang_up()
        wait_until(lambda: boot() not in (None, before))
        wait_until(lambda: predict() == 200)
        took_s = time.monotonic() - started
        assert host("systemctl is-system-running --wait || true").strip() == "running"
        return took_s

    def boot():
        try:
            return host("cat /proc/sys/kernel/random/boot_id")
        except subprocess.CalledProcessError:
            hang_up()
            return None

    return comes_back


def test_a_reboot_is_survived_without_a_hand(host, comes_back):
    def reboot():
        with pytest.raises(subprocess.CalledProcessError):
            host("systemctl reboot && sleep 60")

    took_s = comes_back(reboot)

    print(f"right answers {took_s:.0f} s after the order to reboot")


def test_a_power_cut_is_survived_without_a_hand(fleet, host, comes_back, testhosts):
    before = host(SUMS)
    host("sync")

    took_s = comes_back(lambda: testhosts("reset"))

    print(f"right answers {took_s:.0f} s after the power was cut")
    # So it was one.
    assert "EXT4-fs (vda): recovery complete" in host("journalctl --dmesg --boot")
    assert host(SUMS) == before
    host("cd /var/lib/bedplate/models && find -name SHA256SUMS -execdir sha256sum --check --quiet {} +")
    assert fleet.redis("PING").strip() == "PONG"
