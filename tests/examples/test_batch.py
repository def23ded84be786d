"""The example keeps its word: unseen patients, a table that the service reads alike, thousands of rows as one work."""

import csv
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from sklearn.datasets import load_breast_cancer

from examples.batch import train as batch
from examples.common import run
from tests.service.running_service import KEY, SERVICE, running_service


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    """All that the example writes."""
    folder = tmp_path_factory.mktemp("build")
    torch.set_num_threads(run.THREADS)
    batch.make(folder)
    return folder


@pytest.fixture(scope="module")
def service(build, tmp_path_factory):
    with running_service(tmp_path_factory.mktemp("service"), bundle=build / "bundles" / "tumour" / "1") as running:
        yield running


def held_out(build, name):
    with (build / "examples" / "tumour" / "heldout" / name).open() as file:
        return list(csv.DictReader(file))


def test_patients_are_in_one_set_each():
    labels = load_breast_cancer().target

    sets = batch.split(labels)

    assert sorted(np.concatenate(sets)) == list(range(len(labels)))
    assert [len(part) for part in sets] == [338, 60, 171]


def test_held_out_patients_are_told_right_as_often_as_it_says(build):
    pairs = zip(held_out(build, "labels.csv"), held_out(build, "predictions-1.csv"), strict=True)

    right = [truth["label"] == answer["label"] for truth, answer in pairs]

    assert np.mean(right) >= batch.THRESHOLD


def start(service, build, output):
    table = build / "examples" / "tumour" / "heldout" / "measurements.csv"
    command = [sys.executable, "-m", "bedplate", "predict", service.url, table, "--output", output]
    environment = {**os.environ, "PYTHONPATH": str(SERVICE), "BEDPLATE_API_KEY": KEY}
    return subprocess.Popen(list(map(str, command)), env=environment, stderr=subprocess.PIPE, text=True)


def test_thousands_of_rows_come_to_the_offline_answers_though_the_work_was_cut_off(service, build, tmp_path):
    output = tmp_path / "answers.jsonl"
    first = start(service, build, output)
    while not output.exists() or output.read_bytes().count(b"\n") < 500:
        assert first.poll() is None
        time.sleep(0.005)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    kept = output.read_bytes().count(b"\n")

    again = start(service, build, output)
    _, told = again.communicate(timeout=60)

    expected = held_out(build, "measurements-predictions-1.csv")
    found = {line["row"]: line["prediction"] for line in map(json.loads, output.read_text().splitlines())}
    assert again.returncode == 0, told
    assert len(expected) == len(found) == 5130
    assert kept < 5130
    assert f"{5130 - kept} items asked" in told
    assert [found[row]["label"] for row in range(1, 5131)] == [answer["label"] for answer in expected]
    assert [found[row]["score"] for row in range(1, 5131)] == pytest.approx(
        [float(answer["score"]) for answer in expected], abs=1e-4
    )
