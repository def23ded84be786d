"""A thousand clients that never finish their requests, from outside the fleet, beside one that does."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from tools.deployment import ROOT
from tools.heldout import load
from tools.load.ledger import summarise

CLIENTS = 1000
SLOW = Path(__file__).with_name("slow_clients.py")


# The balancer waits 10 to 30 s for the rest of a request, so each is cut off once at least, or several times.
@pytest.mark.timeout(360)
@pytest.mark.parametrize("seconds", [50, pytest.param(240, marks=pytest.mark.acceptance)])
def test_a_thousand_slow_clients_cost_a_normal_one_at_most_one_request_in_a_thousand(fleet, seconds):
    outside = [ROOT / "tools/testhosts", "outside", fleet.fleet, "--", sys.executable, SLOW]
    slow = subprocess.Popen(
        [*outside, fleet.address, "443", str(CLIENTS), str(seconds)], stdout=subprocess.PIPE, text=True
    )
    try:
        # All of them are there before the first request of the normal client.
        assert slow.stdout.readline() == f"{CLIENTS} connections\n"
        with load(fleet, rate=50, seconds=seconds - 20) as records:
            time.sleep(1)
            held = fleet.ssh("lb1", "ss --no-header --tcp --numeric state established 'sport = :443' | wc -l")
    finally:
        said, _ = slow.communicate(timeout=60)

    assert int(held) > 0.8 * CLIENTS
    # They were cut off again and again, and came back.
    assert int(said.split()[0]) > CLIENTS
    failed = [record for record in records if record.failed]
    assert len(failed) <= 0.001 * len(records), summarise(records)
