"""A rollout that goes wrong reaches one host, which no balancer sends requests by then: clients notice nothing."""

import pytest

from tools.heldout import load
from tools.load.ledger import summarise

DRAINED = "ls /var/lib/bedplate-balancer/drained 2>/dev/null || true"
STARTS = "ExecStart=/opt/bedplate/current/bin/bedplate web "


@pytest.fixture
def units_of_gpu2(fleet):
    """units_of_gpu2() → what runs there, by its processes, and with which unit."""
    ask = "systemctl show --property=MainPID --value 'bedplate-*'; sha256sum /etc/systemd/system/bedplate-web@.service"
    return lambda: fleet.ssh("gpu2", ask)


# Two runs over both hosts take longer than most tests do.
@pytest.mark.timeout(900)
def test_a_front_end_that_cannot_start_reaches_one_host_and_no_client(fleet, tree, units_of_gpu2):
    unit = tree / "templates/etc/systemd/system/bedplate-web@.service.j2"
    text = unit.read_text()
    assert STARTS in text
    unit.write_text(text.replace(STARTS, "ExecStart=/bin/false "))
    before = units_of_gpu2()

    with load(fleet, rate=50, seconds=20) as records:
        broken = fleet.playbook("inference.yml", f"--inventory={fleet.inventory}", tree=tree)
        drained, after = fleet.ssh("lb1", DRAINED).split(), units_of_gpu2()
    mended = fleet.playbook("inference.yml")

    assert broken.returncode != 0
    assert "systemctl restart bedplate-web@1.service failed" in broken.stdout
    assert "It is out of lb1" in broken.stdout
    assert drained == ["gpu1"]
    assert after == before
    assert not [record for record in records if record.failed], summarise(records)
    # The run that mends it brings it back.
    assert mended.returncode == 0, mended.stdout
    assert fleet.ssh("lb1", DRAINED) == ""
