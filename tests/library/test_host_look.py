"""What a host is asked beyond its units and files: disks, failed units, backups, probes. Ports: tests/fleet."""

import json
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import host_look
import pytest

HOURS = {"backup": 30}


def test_a_disk_is_full_from_its_bar_on():
    every = list(host_look.look_at_disks(101))
    full = list(host_look.look_at_disks(0))

    assert "disk /" in [one["check"] for one in every]
    assert all(one["ok"] for one in every)
    assert not any(one["ok"] for one in full)


@pytest.mark.parametrize(
    ("state", "ok", "said"),
    [
        ({"ok": True, "success": time.time() - 3600}, True, "succeeded 1 hours ago"),
        ({"ok": True, "success": time.time() - 31 * 3600}, False, "succeeded 31 hours ago"),
        ({"ok": False, "success": time.time() - 60, "said": "the store is not reached"}, False, "store is not reached"),
        (None, False, "never succeeded"),
    ],
)
def test_a_backup_is_well_that_succeeded_in_time_and_did_not_fail_since(tmp_path, state, ok, said):
    if state:
        (tmp_path / "backup.json").write_text(json.dumps(state))

    [found] = host_look.look_at_backups(str(tmp_path), HOURS)

    assert found["ok"] is ok
    assert said in found["found"]


class Prometheus(BaseHTTPRequestHandler):
    def do_GET(self):
        series = [{"metric": {"instance": name}, "value": [0, value]} for name, value in self.server.probes.items()]
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({"data": {"result": series}}).encode())

    def log_message(self, *args):
        pass


def test_each_probe_that_fails_is_named_and_so_is_a_prometheus_that_does_not_answer():
    with HTTPServer(("127.0.0.1", 0), Prometheus) as server:
        server.probes = {"lb1": "1", "lb2": "0"}
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        found = list(host_look.look_at_probes(f"http://127.0.0.1:{server.server_port}"))
        server.shutdown()
        thread.join()
    [silent] = host_look.look_at_probes(f"http://127.0.0.1:{server.server_port}")

    assert [(one["check"], one["ok"]) for one in found] == [("probe of lb1", True), ("probe of lb2", False)]
    assert not silent["ok"]
