"""What follows from the inventory: a host that is taken out leaves nothing behind, and comes back."""

import shlex
import shutil

import pytest
import yaml

from tools.deployment import ROOT

# Hosts have no curl.
ASK = shlex.quote("import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1]).read().decode())")
# Where another host's address or name could stay behind.
LOOK = (
    "ufw status 2>/dev/null; cat /etc/ufw/user*.rules /etc/nginx/nginx.conf /etc/prometheus/*.yml "
    "/etc/prometheus/rules/* /etc/bedplate/* 2>/dev/null; ls /var/lib/bedplate-balancer/drained 2>/dev/null; "
    f"for path in targets alerts; do python3 -c {ASK} http://127.0.0.1:9090/api/v1/$path 2>/dev/null; done; true"
)


@pytest.fixture
def smaller(fleet, tmp_path):
    """An inventory without gpu2."""
    folder = tmp_path / "inventory"
    shutil.copytree(fleet.inventory, folder)
    hosts = yaml.safe_load((folder / "hosts.yml").read_text())
    del hosts["all"]["children"]["inference"]["hosts"]["gpu2"]
    (folder / "hosts.yml").write_text(yaml.safe_dump(hosts))
    return [f"--inventory={folder}", "-e", f"test_hosts_dir={ROOT}/.bedplate/{fleet.fleet}"]


# Two runs over the whole fleet take longer than most tests do.
@pytest.mark.timeout(900)
def test_a_host_taken_out_leaves_no_rule_upstream_target_or_alert(fleet, smaller, predicts, secrets_in, wait_until):
    traces = ["gpu2", fleet.address_of("gpu2")]

    def found(host):
        return [trace for trace in traces if trace in fleet.ssh(host, LOOK)]

    assert found("lb1")
    assert found("ops1")
    run = fleet.playbook("../site.yml", *smaller)
    try:
        assert run.returncode == 0, run.stdout
        # Prometheus waits two scrapes before it believes that a target is gone; then its alerts end.
        wait_until(lambda: not any(found(host) for host in ("lb1", "gpu1", "ops1")), 90)
        assert predicts()
    finally:
        back = fleet.playbook("../site.yml", "-vvv", "--diff")
    assert back.returncode == 0, back.stdout[-3000:]
    assert found("lb1")
    # However loud a run is and whatever it writes, it shows none.
    assert "PLAY RECAP" in back.stdout
    assert secrets_in(back.stdout + back.stderr) == []
