"""Who dies when memory ends: the engine, which is back by itself, and nobody else."""

import re

import pytest

ENGINE = "bedplate-engine@cpu0"
OTHERS = ["ssh", "nginx", "redis-server@cache", "bedplate-web@1", "bedplate-web@2", "bedplate-metrics", "prometheus"]
OTHERS += ["prometheus-alertmanager", "prometheus-node-exporter", "rsyslog", "systemd-journald", "dbus"]
# Beyond the start of the engine itself: importing torch takes 2 s on a processor and half a minute on an emulated one.
BACK_WITHIN_S = 20


@pytest.fixture
def struck(host, predict, wait_until):
    """struck(strike) → the kernel's lines about who was killed, once predictions are right again, in time.

    Requires that the engine alone was killed, and that clients heard of it as 503.
    """

    def struck(strike):
        since = host("date +%s").strip()
        before = main_pids(host)
        strike()
        statuses = []
        took_s = wait_until(lambda: statuses.append(predict()) or statuses[-1] == 200)
        start_s = engine_start_s(host)

        print(f"right again after {took_s:.1f} s, of which the engine took {start_s:.1f} s to start")
        assert main_pids(host) == before
        # A limit of its own, or the host's end: systemd tells the second as a signal.
        assert re.search("Failed with result '(oom-kill|signal)'", host(f"journalctl --since=@{since} --unit={ENGINE}"))
        assert set(statuses) == {503, 200}
        assert took_s - start_s <= BACK_WITHIN_S
        return host(f"journalctl --quiet --dmesg --since=@{since} --grep=oom-kill:").splitlines()

    return struck


def engine_start_s(host):
    """Of the last start, from its first instruction to READY."""
    stamps = [f"{name}TimestampMonotonic" for name in ("InactiveExit", "ActiveEnter")]
    begun, ready = (int(host(f"systemctl show --property={stamp} --value {ENGINE}")) for stamp in stamps)
    return (ready - begun) / 1e6


def main_pids(host):
    pids = host(f"systemctl show --property=MainPID --value {' '.join(OTHERS)}").split()
    assert "0" not in pids
    return dict(zip(OTHERS, pids, strict=True))


def test_an_engine_past_its_limit_is_killed_alone(host, struck, run_in_unit):
    limit_mb = int(host(f"systemctl show --property=MemoryMax --value {ENGINE}")) >> 20

    [killed] = struck(lambda: run_in_unit(ENGINE, "greedy.py", str(2 * limit_mb)))

    assert "constraint=CONSTRAINT_MEMCG" in killed
    assert f"oom_memcg=/bedplate.slice/{ENGINE}.service" in killed


def test_a_host_without_memory_gives_up_its_engine(host, struck, run_in_unit):
    """To a program that the kernel must not touch, and that is no part of the service."""
    memory_mb = int(host("grep ^MemTotal: /proc/meminfo").split()[1]) >> 10

    [killed] = struck(lambda: run_in_unit("ssh", "greedy.py", str(memory_mb), "spare", "me"))

    assert "constraint=CONSTRAINT_NONE" in killed
    assert f"task_memcg=/bedplate.slice/{ENGINE}.service" in killed
