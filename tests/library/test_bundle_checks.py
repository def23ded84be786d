"""What the control machine computes before a bundle is copied: one that does not keep its word goes nowhere."""

from pathlib import Path

import bundle_checks
import numpy as np
import pytest
from bedplate.bundle.manifest import write_manifest
from safetensors.numpy import save_file

BUNDLE = """\
format: 1
name: same
version: "1"
task: tensors
description: Gives back what it gets
inputs: [{name: x, dtype: int8, shape: [2]}]
outputs: [{name: y, dtype: int8, shape: [2]}]
batch: {max_items: 4}
weights: weights.safetensors
network: [identity]
canary: {file: canary.json, expect: expected.json, tolerance: 0}
"""
VALIDATION = "validation: {file: validation.safetensors, metric: agreement, threshold: 0.75}\n"


@pytest.fixture
def bundle(tmp_path):
    """A bundle of which `right` of four answers are as it says."""

    def make(right=4, text=BUNDLE + VALIDATION):
        directory = tmp_path / "bundles/same/1"
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "bundle.yaml").write_text(text)
        (directory / "canary.json").write_text('{"inputs": [[1, 2]]}')
        (directory / "expected.json").write_text('{"outputs": [[1, 2]]}')
        (directory / "weights.safetensors").write_bytes(b"\x02" + bytes(7) + b"{}")
        if "validation:" in text:
            items = np.arange(8, dtype=np.int8).reshape(4, 2)
            expected = items + (np.arange(4) >= right)[:, np.newaxis].astype(np.int8)
            save_file({"inputs": items, "expected": expected}, directory / "validation.safetensors")
        write_manifest(directory)
        return directory

    return make


@pytest.fixture
def records(tmp_path):
    return bundle_checks.Records(tmp_path / "records", "x" * 43)


def check(directory, records, precision="float32", **options):
    return bundle_checks.check(directory, precision, False, records, **options)


def test_a_bundle_below_its_threshold_is_refused_by_name_and_figure_and_not_recorded(bundle, records):
    directory = bundle(right=2)

    for _ in range(2):
        with pytest.raises(bundle_checks.Refused, match=r"same/1: agreement 0\.5000 is below the threshold, 0\.75"):
            check(directory, records)


def test_a_bundle_that_keeps_its_word_is_computed_once(bundle, records, monkeypatch):
    directory = bundle(right=3)
    assert check(directory, records)[-1] == "agreement: 0.7500 of 4 items, wanted 0.75"

    # Nothing is there that could compute.
    monkeypatch.setattr(bundle_checks.sys, "executable", "/bin/false")
    assert check(directory, records) == []
    # Other content, another precision, another secret: nobody has said anything about those.
    with pytest.raises(bundle_checks.Refused, match="ended with status 1"):
        check(directory, records, precision="bfloat16")
    with pytest.raises(bundle_checks.Refused, match="ended with status 1"):
        check(directory, bundle_checks.Records(records.folder, "y" * 43))
    with pytest.raises(bundle_checks.Refused, match="ended with status 1"):
        check(bundle(right=4), records)


def test_a_record_that_somebody_wrote_by_hand_is_none(bundle, records, monkeypatch):
    directory = bundle(right=2)
    records.add(bundle_checks.facts_of(bundle_checks.read_bundle(directory), "float32"))
    assert check(directory, records) == []

    [record] = Path(records.folder).iterdir()
    record.write_text(record.read_text().replace('"seal": "', '"seal": "0'))

    with pytest.raises(bundle_checks.Refused, match=r"0\.5000 is below"):
        check(directory, records)


def test_a_bundle_without_a_validation_set_answers_its_canary(bundle, records):
    assert check(bundle(text=BUNDLE), records) == [
        "canary: the numbers of expected.json, wanted the numbers of expected.json"
    ]


def test_a_check_that_does_not_end_is_a_refusal(bundle, records):
    with pytest.raises(bundle_checks.Refused, match=r"same/1: .* did not end within 0\.01 s"):
        check(bundle(), records, timeout_s=0.01)
