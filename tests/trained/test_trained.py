"""The examples as `make examples` leaves them: what their READMEs say, what their checks want, and not made twice."""

import csv
import math
import re
import subprocess
import sys

import pytest
import yaml
from bedplate.bundle.bundle import read_bundle
from bedplate.commands import cli

from tools.deployment import ROOT

BUNDLES = ROOT / "build" / "bundles"
EXAMPLES = sorted(file.parent.name for file in (ROOT / "examples").glob("*/train.py"))


def near(share, files):
    """How far two networks as good as each other may be apart on as many files: other processors train another one.

    Two standard deviations of the difference of two shares.
    """
    return max(0.02, 2 * math.sqrt(2 * share * (1 - share) / files))


def train(example):
    command = [sys.executable, "-m", f"examples.{example}.train"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1200, check=True).stdout


def bundles_of(example):
    """The directories that its deploy.yml names."""
    named = yaml.safe_load((ROOT / "examples" / example / "deploy.yml").read_text())["bedplate_bundles"]
    return [directory for name in named for directory in BUNDLES.glob(name if "/" in name else f"{name}/*")]


def labels(file):
    with file.open() as lines:
        return {row["file"]: row["label"] for row in csv.DictReader(lines)}


@pytest.fixture(scope="module", params=EXAMPLES)
def example(request):
    train(request.param)  # does nothing where make did it
    return request.param


def test_it_is_not_trained_again(example):
    assert "nothing to do" in train(example)


def test_its_bundles_keep_their_word(example):
    assert bundles_of(example)
    for directory in bundles_of(example):
        assert cli.main(["bundle", "check", str(directory)]) == 0


def test_its_readme_says_what_it_gets_on_what_it_never_saw(example):
    readme = (ROOT / "examples" / example / "README.md").read_text()
    said = [float(figure) / 100 for figure in re.findall(r"(\d+\.\d\d) %", readme)]
    for directory in bundles_of(example):
        bundle = read_bundle(directory)
        if not (bundle.names_classes or bundle.detection):
            continue
        heldout = ROOT / "build" / "examples" / bundle.name / "heldout"
        truth, found = labels(heldout / "labels.csv"), labels(heldout / f"predictions-{bundle.version}.csv")
        share = sum(found[file] == label for file, label in truth.items()) / len(truth)

        assert share >= bundle.validation.threshold, directory
        close = [figure for figure in said if abs(figure - share) <= near(figure, len(truth))]
        assert close, f"{directory}: {share:.2%}, README: {said}"
