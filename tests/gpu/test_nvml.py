"""What only a GPU can show of its figures: that NVIDIA's own library says what a stand-in for it was made to say."""

from __future__ import annotations

import pynvml
import pytest
import torch
from bedplate.gpu_metrics.figures import FIGURES
from bedplate.gpu_metrics.nvml import Nvml

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not torch.cuda.is_available(), reason="torch sees no GPU: bedplate/gpu_metrics is tested with a stand-in only"
    ),
]
# What each GPU has, whatever its age and size.
EVERY = {"utilization_ratio", "memory_used_bytes", "memory_bytes", "temperature_celsius", "clock_hertz", "processes"}


@pytest.fixture(scope="module")
def uuids():
    pynvml.nvmlInit()
    handles = [pynvml.nvmlDeviceGetHandleByIndex(number) for number in range(pynvml.nvmlDeviceGetCount())]
    return [pynvml.nvmlDeviceGetUUID(handle) for handle in handles]


def test_every_gpu_answers_with_the_figures_that_each_has(uuids):
    samples = Nvml(uuids).sample()

    assert None not in samples
    for sample in samples:
        assert sample.figures.keys() >= EVERY
        assert sample.figures.keys() <= {figure.name for figure in FIGURES}
        assert sample.driver.count(".") >= 1


def test_figures_are_in_the_units_that_they_say(uuids):
    [sample, *_] = Nvml(uuids).sample()
    [memory] = [value for _, value in sample.figures["memory_bytes"]]
    [temperature] = [value for _, value in sample.figures["temperature_celsius"]]
    clocks = {labels[0]: value for labels, value in sample.figures["clock_hertz"]}

    assert 1 << 30 < memory < 1 << 40
    assert 10 < temperature < 100
    assert 1e8 < clocks["sm"] < 1e10


def test_what_a_program_takes_of_the_memory_is_seen(uuids):
    nvml = Nvml(uuids)
    torch.cuda.init()
    before = sum(value for sample in nvml.sample() for _, value in sample.figures["memory_used_bytes"])

    taken = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    after = sum(value for sample in nvml.sample() for _, value in sample.figures["memory_used_bytes"])

    assert after - before >= taken.numel() * 0.9


def test_the_driver_takes_the_registration_for_its_error_reports(uuids, caplog):
    nvml = Nvml(uuids)

    nvml.sample()

    assert not [record for record in caplog.records if "no error reports" in record.getMessage()]
    assert [nvml.xids[uuid].count for uuid in uuids] == [0] * len(uuids)
