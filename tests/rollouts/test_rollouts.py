"""Whole releases and bundles that are wrong, rolled out under 50 requests a second: `make rollouts`, ten minutes.

Each prints how many hosts it reached and what clients got.
"""

import shutil
import time
from contextlib import contextmanager

import numpy as np
import pytest
from bedplate.bundle.manifest import write_manifest
from safetensors.numpy import load_file, save_file

from tools.deployment import ROOT
from tools.heldout import load
from tools.load.ledger import summarise

DRAINED = "ls /var/lib/bedplate-balancer/drained 2>/dev/null || true"
RELEASE = "readlink /opt/bedplate/current; ls /var/lib/bedplate/models/digits; cat /etc/bedplate/engine.yaml"
HOSTS = ("gpu1", "gpu2")
MOST_WRONG = 0.01
NOISE = 0.6  # each weight is this much off, about; 41 % are right then, and the canary is


@pytest.fixture(autouse=True)
def healed(fleet):
    """However a test ends, the hosts are as the inventory declares."""
    yield
    run = fleet.playbook("inference.yml")
    assert run.returncode == 0, run.stdout
    assert fleet.ssh("lb1", DRAINED) == ""


@pytest.fixture
def own_release(tree):
    """The tree with a service and a wheelhouse of its own."""
    for name in ("service", "tools", "wheelhouse"):
        (tree / name).unlink()
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    return tree


@contextmanager
def watched(fleet, name):
    """A rollout under load. Yields what it found: the hosts that changed, those drained, and what clients got."""
    before = {host: fleet.ssh(host, RELEASE) for host in HOSTS}
    found = {}
    with load(fleet, rate=50, seconds=240) as records:
        began = time.monotonic()
        yield found
        took_s = time.monotonic() - began
    assert took_s < 235, f"the load ended before the rollout, after {took_s:.0f} s"
    found["reached"] = [host for host in HOSTS if fleet.ssh(host, RELEASE) != before[host]]
    found["drained"] = fleet.ssh("lb1", DRAINED).split()
    wrong = [record for record in records if record.failed]
    print(f"\n{name}: {took_s:.0f} s, reached {found['reached']}, drained {found['drained']}: "
          f"{len(wrong)} of {len(records)} wrong or failed")  # fmt: skip
    assert len(wrong) <= MOST_WRONG * len(records), summarise(records)


def test_a_release_whose_labels_are_shifted_reaches_one_host_which_is_drained(fleet, own_release):
    source = own_release / "service/bedplate/web/items/postprocess.py"
    right = "best = ranked[0][1]"
    assert right in source.read_text()
    wrong = "best = model.labels[(model.labels.index(ranked[0][1]) + 1) % len(model.labels)]"
    source.write_text(source.read_text().replace(right, wrong))
    made = fleet.playbook("wheelhouse.yml", f"--inventory={fleet.inventory}", tree=own_release)
    assert made.returncode == 0, made.stdout

    with watched(fleet, "labels shifted by one") as found:
        run = fleet.playbook("inference.yml", f"--inventory={fleet.inventory}", tree=own_release)

    assert run.returncode != 0
    assert "gpu1 does not answer rightly: http://" in run.stdout
    assert "model digits: wanted 'digits 1: " in run.stdout
    assert (found["reached"], found["drained"]) == (["gpu1"], ["gpu1"])


def test_a_model_below_its_threshold_reaches_no_host(fleet, tmp_path):
    bundles = tmp_path / "bundles"
    shutil.copytree(ROOT / "build/bundles/digits/1", bundles / "digits/2")
    description = bundles / "digits/2/bundle.yaml"
    description.write_text(description.read_text().replace("version: '1'", "version: '2'"))
    weights = bundles / "digits/2/weights.safetensors"
    rng = np.random.default_rng(1)
    noisy = {name: np.asarray(value * np.exp(rng.normal(0, NOISE, value.shape))).astype(value.dtype)
             for name, value in load_file(weights).items()}  # fmt: skip
    save_file(noisy, weights)
    write_manifest(bundles / "digits/2")

    with watched(fleet, "a model below its threshold") as found:
        run = fleet.playbook("inference.yml", "-e", f"bedplate_bundles_dir={bundles}")

    assert run.returncode != 0
    assert "is below the threshold, 0.97" in run.stdout
    assert "digits/2" in run.stdout
    assert (found["reached"], found["drained"]) == ([], [])


def test_a_release_whose_front_ends_cannot_start_reaches_one_host_which_is_drained(fleet, own_release):
    source = own_release / "service/bedplate/web/main.py"
    source.write_text(
        "import no_such_module\n" + source.read_text().replace("from __future__ import annotations\n", "")
    )
    made = fleet.playbook("wheelhouse.yml", f"--inventory={fleet.inventory}", tree=own_release)
    assert made.returncode == 0, made.stdout

    with watched(fleet, "a web that cannot start") as found:
        run = fleet.playbook("inference.yml", f"--inventory={fleet.inventory}", tree=own_release)

    assert run.returncode != 0
    assert "bedplate-web@1.service failed" in run.stdout
    assert (found["reached"], found["drained"]) == (["gpu1"], ["gpu1"])


def test_a_host_that_an_operator_drained_is_changed_and_stays_out(fleet):
    assert fleet.playbook("drain.yml", "-e", "host=gpu1").returncode == 0
    fleet.ssh("gpu1", "echo '# by hand' >> /etc/bedplate/metrics.yaml")
    try:
        run = fleet.playbook("inference.yml", "--limit=gpu1")
        drained = fleet.ssh("lb1", DRAINED).split()
    finally:
        back = fleet.playbook("undrain.yml", "-e", "host=gpu1")

    assert run.returncode == 0, run.stdout
    assert drained == ["gpu1"]
    assert back.returncode == 0, back.stdout
