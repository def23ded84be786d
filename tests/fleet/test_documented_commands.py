"""What docs/operations.md and docs/runbooks.md tell operators to type works on a fleet, where it changes nothing."""

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml

from tools.deployment import ROOT, SERVER_NAME

TABLE = yaml.safe_load((Path(__file__).parent / "documented_commands.yml").read_text())
# What an operator puts in place of a word in capitals.
WORDS = {
    "FILE": "/etc/redis/redis-cache.conf",
    "HOST": "gpu1",
    "NAME": SERVER_NAME,
    "UNIT": "bedplate-web@1.service",
}
# A search that finds nothing, a unit that has done its work: said by the status, and nothing on standard error.
HAS_NOTHING = {1, 3}


def tried(*places):
    return [(place, text) for place in places for text, reason in TABLE[place].items() if reason is None]


def put_in(text, **words):
    return re.sub(r"\b[A-Z]{4,}\b", lambda found: (WORDS | words).get(found[0], found[0]), text)


@pytest.fixture(scope="module")
def results(fleet):
    """What each command of the hosts came to; the hosts are asked side by side."""

    def run(place):
        came_to = {}
        for _, text in tried(place):
            line = put_in(text, ADDRESS=fleet.address)
            try:
                came_to[text] = (0, "", fleet.ssh(place, line))
            except subprocess.CalledProcessError as error:
                came_to[text] = (error.returncode, error.stderr, error.stdout)
        return came_to

    with ThreadPoolExecutor() as pool:
        places = [place for place in TABLE if place != "control" and tried(place)]
        return dict(zip(places, pool.map(run, places), strict=True))


@pytest.mark.parametrize(("place", "text"), tried(*(place for place in TABLE if place != "control")))
def test_a_command_for_a_host_works_there(results, place, text):
    status, complaint, output = results[place][text]

    assert status == 0 or (status in HAS_NOTHING and not complaint), f"status {status}: {complaint}{output}"


@pytest.mark.parametrize("text", [text for _, text in tried("control")])
def test_a_command_for_the_control_machine_works(fleet, text):
    own = {"inventory/demo": str(fleet.inventory), "~/fleet": str(fleet.inventory)}
    line = put_in(text)
    for example, inventory in own.items():
        line = line.replace(example, inventory)
    if line.startswith("ansible") and "-i " not in line and "vault" not in line:
        program, rest = line.split(" ", 1)
        line = f"{program} -i {fleet.inventory} {rest}"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"

    done = subprocess.run(["bash", "-c", line], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)

    # diff says by 1 that there is a difference.
    assert done.returncode == (1 if line.startswith("diff") else 0), done.stderr + done.stdout


def test_the_pages_of_prometheus_are_there(fleet):
    pages = re.findall(r"http://127\.0\.0\.1:9090/[\w/]+", (ROOT / "docs/operations.md").read_text())

    assert pages
    for page in pages:
        assert fleet.ssh("ops1", f"curl --silent --output /dev/null --write-out '%{{http_code}}' {page}") == "200"
