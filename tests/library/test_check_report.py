"""The table and the JSON of playbooks/check.yml."""

import json
import re
import subprocess
import sys

import pytest

from tools.deployment import ROOT

GOOD = {"units": [], "files": [], "look": [], "canary": None, "canary_error": ""}
PORT = {"check": "port of ssh", "ok": True, "found": "listens", "wanted": "a listener on 22"}


def canary(ok):
    return json.dumps(
        {"url": "http://h:1", "ok": ok, "found": "digits 1: 7", "wanted": "digits 1: 8", "latency_ms": 2.5}
    )


@pytest.fixture
def report(tmp_path):
    def run(**results):
        lines = "".join(json.dumps({"host": host, "result": result}) + "\n" for host, result in results.items())
        command = [sys.executable, ROOT / "tools/check_report.py", tmp_path / "report.json"]
        done = subprocess.run(command, input=lines, capture_output=True, text=True, check=False)
        return done, json.loads((tmp_path / "report.json").read_text())

    return run


def test_a_fleet_that_is_well_is_ok(report):
    done, document = report(lb1=GOOD | {"look": [PORT]}, gpu1=GOOD | {"canary": canary(True)})

    assert done.returncode == 0
    assert document["ok"]
    assert re.search(r"^lb1 +ok +port of ssh +listens$", done.stdout, re.MULTILINE)


@pytest.mark.parametrize(
    ("result", "said"),
    [
        (None, "not reached"),
        (GOOD | {"units": ["reload nginx.service: it has not read /etc/nginx/nginx.conf"]}, "has not read /etc/nginx"),
        (GOOD | {"files": ["/etc/nginx/nginx.conf is gone"]}, "nginx.conf is gone"),
        (GOOD | {"files": None}, "one run of site.yml"),
        (GOOD | {"look": [PORT | {"ok": False, "found": "nobody listens"}]}, "nobody listens"),
        (GOOD | {"canary": canary(False)}, "digits 1: 8"),
        (GOOD | {"canary": "", "canary_error": "bedplate: no such file"}, "no such file"),
    ],
)
def test_one_finding_makes_the_whole_fleet_not_ok(report, result, said):
    done, document = report(lb1=GOOD, gpu1=result)

    assert done.returncode == 1
    assert not document["ok"]
    assert document["hosts"]["lb1"]["ok"]
    assert not document["hosts"]["gpu1"]["ok"]
    assert said in done.stdout


def test_an_empty_fleet_is_not_ok(report):
    assert report()[0].returncode == 1
