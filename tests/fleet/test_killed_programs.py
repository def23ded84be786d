"""Each main program killed, its host alone behind the balancer: back by itself, with right answers, within 10 s."""

import pytest

PROGRAMS = [
    ("lb1", "nginx.service"),
    ("lb1", "prometheus-nginx-exporter.service"),
    ("lb1", "mtail.service"),
    ("gpu1", "bedplate-web@1.service"),
    ("gpu1", "bedplate-web@2.service"),
    ("gpu1", "bedplate-decode@1.service"),
    ("gpu1", "bedplate-decode@2.service"),
    ("gpu1", "bedplate-engine@cpu0.service"),
    ("gpu1", "bedplate-redis-cache.service"),
    ("gpu1", "bedplate-metrics.service"),
    ("gpu1", "prometheus-node-exporter.service"),
    ("gpu1", "rsyslog.service"),
    ("ops1", "redis-server@cache.service"),
    ("ops1", "prometheus-redis-exporter.service"),
    ("ops1", "prometheus.service"),
    ("ops1", "prometheus-alertmanager.service"),
    ("ops1", "prometheus-blackbox-exporter.service"),
]


@pytest.fixture(scope="module")
def gpu1_alone(fleet):
    """The balancer sends every request to gpu1."""
    drained = fleet.playbook("drain.yml", "-e", "host=gpu2")
    assert drained.returncode == 0, drained.stdout
    yield
    back = fleet.playbook("undrain.yml", "-e", "host=gpu2")
    assert back.returncode == 0, back.stdout


@pytest.mark.parametrize(("host", "unit"), PROGRAMS)
def test_a_killed_program_is_back_and_predictions_are_right_within_10_s(
    fleet, gpu1_alone, predicts, wait_until, host, unit
):
    def main_pid():
        return fleet.ssh(host, f"systemctl show --property=MainPID --value {unit}").strip()

    def is_up():
        return fleet.ssh(host, f"systemctl is-active {unit} || true").strip() == "active"

    before = main_pid()
    fleet.ssh(host, f"systemctl kill --signal=KILL --kill-whom=main {unit}")
    took_s = wait_until(lambda: main_pid() not in ("0", before) and is_up() and predicts(), 10)

    print(f"{host} {unit}: {took_s:.1f} s")
