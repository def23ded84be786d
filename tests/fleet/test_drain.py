"""Taking an inference host out under load, and back. Needs a fleet with gpu1 and gpu2."""

import time

import pytest

from tools.heldout import load
from tools.load.ledger import summarise

WEBS = "bedplate-web@1.socket bedplate-web@2.socket bedplate-web@1.service bedplate-web@2.service"


@pytest.fixture
def answers_of_gpu1(fleet):
    """answers_of_gpu1() → how many requests the balancer has sent there, health aside."""
    sent = f'grep --count \'"upstream":"[^"]*{fleet.address_of("gpu1")}:\' /var/log/nginx/access.log || true'
    return lambda: int(fleet.ssh("lb1", sent))


@pytest.fixture(scope="module")
def drained(fleet):
    """The finished run that drained gpu1. However the tests end, it serves and gets requests."""
    yield fleet.playbook("drain.yml", "-e", "host=gpu1")
    fleet.ssh("gpu1", "systemctl start bedplate.target")
    back = fleet.playbook("undrain.yml", "-e", "host=gpu1")
    assert back.returncode == 0, back.stdout


def test_a_host_is_drained_stopped_started_and_undrained_without_a_failed_request(fleet, answers_of_gpu1):
    with load(fleet, rate=60, seconds=240, ends_with_body=True) as records:
        began = time.monotonic()
        time.sleep(2)
        drained = fleet.playbook("drain.yml", "-e", "host=gpu1")
        before = answers_of_gpu1()
        fleet.ssh("gpu1", f"systemctl stop {WEBS}")
        time.sleep(5)
        fleet.ssh("gpu1", "systemctl start bedplate.target")
        after = answers_of_gpu1()
        undrained = fleet.playbook("undrain.yml", "-e", "host=gpu1")
        time.sleep(5)
        took = time.monotonic() - began

    assert drained.returncode == 0, drained.stdout
    assert undrained.returncode == 0, undrained.stdout
    assert took < 240, "the load ended before gpu1 was back"
    assert not [record for record in records if record.failed], summarise(records)
    assert after == before
    assert answers_of_gpu1() > after, "gpu1 got no request after it was back"


def test_draining_again_changes_nothing(fleet, drained):
    assert drained.returncode == 0, drained.stdout
    again = fleet.playbook("drain.yml", "-e", "host=gpu1")

    assert again.returncode == 0
    assert "changed=1" not in again.stdout


def test_a_second_host_is_not_drained_beside_the_first(fleet, drained):
    refused = fleet.playbook("drain.yml", "-e", "host=gpu2")

    assert refused.returncode != 0
    assert "gpu1 is drained on lb1" in refused.stdout
    assert "undrain.yml -e host=gpu1" in refused.stdout
    assert "gpu2" not in fleet.ssh("lb1", "ls /var/lib/bedplate-balancer/drained")


@pytest.mark.parametrize("options", [(), ("-e", "host=gpu9"), ("-e", "host=lb1")])
def test_a_host_that_is_not_named_rightly_is_refused_with_those_that_would_do(fleet, options):
    refused = fleet.playbook("drain.yml", *options)

    assert refused.returncode != 0
    assert "Name one of gpu1, gpu2" in refused.stdout


def test_a_flag_survives_a_run_of_the_balancer_and_goes_with_its_host(fleet, drained):
    fleet.ssh("lb1", "touch /var/lib/bedplate-balancer/drained/gpu9")

    assert fleet.playbook("balancer.yml").returncode == 0

    assert fleet.ssh("lb1", "ls /var/lib/bedplate-balancer/drained").split() == ["gpu1"]


def test_a_host_that_does_not_answer_rightly_stays_out(fleet, drained):
    fleet.ssh("gpu1", "systemctl stop 'bedplate-engine@*.service'")

    refused = fleet.playbook("undrain.yml", "-e", "host=gpu1")

    assert refused.returncode != 0
    assert "gpu1 does not answer lb1 rightly" in refused.stdout
    assert "gpu1" in fleet.ssh("lb1", "ls /var/lib/bedplate-balancer/drained")
