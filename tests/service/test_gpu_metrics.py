"""The figures of GPUs, by NVIDIA's own binding over a library that stands in for NVIDIA's."""

import logging
import signal
import sys
import threading
import time

import pytest
import yaml
from bedplate.gpu_metrics.gpus import Gpus
from bedplate.gpu_metrics.nvml import Nvml
from bedplate.gpu_metrics.sampler import Sampler
from prometheus_client import CollectorRegistry

from tests.service.nvml_tools import UUIDS, _loaded, nvml_library, stub
from tests.service.test_metrics_process import scrape
from tests.service.test_processes import START_S, free_port, program, wait_until

__all__ = ["_loaded", "nvml_library", "stub"]  # fixtures


@pytest.fixture
def nvml(stub):
    return Nvml(UUIDS)


@pytest.fixture
def told(nvml):
    """told(name, **labels) → the value of the series in a sample of now; None where it is not told."""

    def told(name, /, **labels):
        registry = CollectorRegistry()
        registry.register(Gpus(UUIDS, nvml.sample, nvml.xids))
        return registry.get_sample_value(f"bedplate_gpu_{name}", labels)

    return told


@pytest.mark.parametrize(
    ("name", "labels", "value"),
    [
        ("up", {}, 1),
        ("info", {"uuid": "GPU-0a", "name": "Stub 80GB", "driver": "580.95.05"}, 1),
        ("utilization_ratio", {}, 0.87),
        ("memory_used_bytes", {}, 20 << 30),
        ("memory_bytes", {}, 80 << 30),
        ("temperature_celsius", {}, 41),
        ("power_watts", {}, 312.5),
        ("power_limit_watts", {}, 700),
        ("clock_hertz", {"clock": "sm"}, 1.98e9),
        ("clock_hertz", {"clock": "memory"}, 2.619e9),
        ("throttled", {"reason": "thermal"}, 1),
        ("throttled", {"reason": "power-cap"}, 0),
        ("throttled", {"reason": "power-brake"}, 0),
        ("ecc_errors_total", {"kind": "uncorrected"}, 2),
        ("ecc_errors_total", {"kind": "corrected"}, 5),
        ("pcie_replays_total", {}, 3),
        ("remapped_rows", {"cause": "uncorrected"}, 1),
        ("remapped_rows", {"cause": "corrected"}, 4),
        ("remapping", {"state": "pending"}, 1),
        ("remapping", {"state": "failed"}, 0),
        ("processes", {}, 1),
        ("xid_errors_total", {}, 0),
        ("xid", {}, 0),
    ],
)
def test_what_the_library_says_is_told_in_units(told, name, labels, value):
    assert told(name, gpu="gpu0", **labels) == value


def test_each_gpu_has_its_own_figures_and_lacks_those_it_does_not_have(told):
    assert told("temperature_celsius", gpu="gpu1") == 42
    assert told("retired_pages", gpu="gpu1", cause="uncorrected") == 1
    assert told("retired_pages", gpu="gpu1", cause="corrected") == 0
    assert told("retired_pages", gpu="gpu0", cause="corrected") is None
    assert told("remapped_rows", gpu="gpu1", cause="corrected") is None


@pytest.mark.parametrize("moment", [1, 2], ids=["before a sample", "in the middle of one"])
def test_a_gpu_that_is_lost_is_down_without_figures_and_the_other_goes_on(stub, told, moment):
    stub.set(lost=(moment, 0))

    assert told("up", gpu="gpu0") == 0
    assert told("memory_bytes", gpu="gpu0") is None
    assert told("up", gpu="gpu1") == 1
    assert told("memory_bytes", gpu="gpu1") == 80 << 30


def test_a_gpu_that_comes_back_is_told_of_again(stub, nvml):
    stub.set(lost=(1, 0))
    during = nvml.sample()
    stub.set(lost=(0, 0))

    after = nvml.sample()

    assert [sample is None for sample in during] == [True, False]
    assert None not in after


def test_a_gpu_that_the_host_should_have_and_has_not_is_down(stub):
    missing, present = Nvml(["GPU-gone", "GPU-0b"]).sample()

    assert missing is None
    assert present.name == "Stub 80GB"


def test_trouble_is_logged_once_and_its_end(stub, nvml, caplog):
    caplog.set_level(logging.INFO)
    stub.set(lost=(1, 0))
    for _ in range(3):
        nvml.sample()
    stub.set(lost=(0, 0))
    nvml.sample()

    lines = [record.getMessage() for record in caplog.records if "does not answer" in record.getMessage()]
    assert lines == ["GPU GPU-0a does not answer: GPU is lost", "over: GPU GPU-0a does not answer: GPU is lost"]


def test_without_a_driver_it_says_so_once_and_waits_for_it(stub, nvml, caplog):
    stub.set(driver_loaded=0)
    without = [nvml.sample(), nvml.sample()]
    stub.set(driver_loaded=1)

    assert without == [[None, None], [None, None]]
    assert [record.getMessage() for record in caplog.records] == [
        "no figures of GPUs: Driver Not Loaded (libnvidia-ml.so.1)"
    ]
    assert None not in nvml.sample()


def test_without_the_binding_it_says_so_once(nvml, caplog, monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)

    assert [nvml.sample(), nvml.sample()] == [[None, None], [None, None]]
    assert [record.getMessage() for record in caplog.records] == [
        "no figures of GPUs: the Python package nvidia-ml-py is not installed"
    ]


def test_errors_that_the_driver_reports_are_counted_with_the_last_code(stub, nvml, told):
    nvml.sample()
    stub.set(xid=(79, 0))
    nvml.sample()
    stub.set(xid=(48, 0))

    nvml.sample()

    assert told("xid_errors_total", gpu="gpu0") == 2
    assert told("xid", gpu="gpu0") == 48
    assert told("xid_errors_total", gpu="gpu1") == 0


def test_the_library_is_started_once_while_all_is_well(stub, nvml):
    for _ in range(3):
        nvml.sample()

    assert stub.get("starts") == 1


@pytest.fixture
def sampling():
    """Samplers that run, many times a second, until the test ends."""
    started = []

    def start(sample, count, **times):
        sampler = Sampler(sample, count, interval_s=0.01, **times)
        sampler.start()
        started.append(sampler)
        return sampler

    yield start
    for sampler in started:
        sampler.stop()
    wait_until(lambda: not [thread for thread in threading.enumerate() if thread.name == "sampler"], timeout_s=20)


def test_a_library_that_hangs_holds_nobody_up_and_its_gpus_are_down_after_a_while(stub, nvml, sampling):
    sampler = sampling(nvml.sample, len(UUIDS), stale_s=0.5)
    wait_until(lambda: None not in sampler.latest(), timeout_s=10)
    stub.set(slow_us=2_000_000)

    asked_s = time.monotonic()
    wait_until(lambda: sampler.latest() == [None, None], timeout_s=10)
    longest_s = time.monotonic() - asked_s
    stub.set(slow_us=0)

    assert longest_s < 2
    wait_until(lambda: None not in sampler.latest(), timeout_s=20)


def test_a_sample_that_fails_is_not_the_last_one(sampling):
    tries = threading.Semaphore(0)

    def fail():
        tries.release()
        raise RuntimeError("nobody thought of this")

    sampling(fail, 1)

    assert all(tries.acquire(timeout=10) for _ in range(3))


def test_the_program_tells_through_bedplate_metrics_as_every_unit_does(nvml_library, tmp_path):
    (tmp_path / "gpu.yaml").write_text(yaml.safe_dump({"gpus": list(UUIDS), "metrics_dir": str(tmp_path)}))
    (tmp_path / "metrics.yaml").write_text(yaml.safe_dump({"sockets": [str(tmp_path / "gpus.sock")]}))
    port = free_port()

    def text():
        answer = scrape(port)
        return answer[1] if answer else ""

    with (
        program("gpu-metrics", "--settings", tmp_path / "gpu.yaml", LD_LIBRARY_PATH=str(nvml_library)) as gpus,
        program("metrics", "--settings", tmp_path / "metrics.yaml", "--bind", f"127.0.0.1:{port}"),
    ):
        wait_until(lambda: 'bedplate_gpu_up{gpu="gpu1",unit="gpus"} 1.0' in text())
        told = text()
        gpus.send_signal(signal.SIGTERM)
        gpus.communicate(timeout=START_S)
        after = text()

    assert 'bedplate_gpu_ecc_errors_total{gpu="gpu0",kind="uncorrected",unit="gpus"} 2.0' in told
    assert 'bedplate_unit_up{unit="gpus"} 1.0' in told
    assert gpus.returncode == 0
    assert 'bedplate_unit_up{unit="gpus"} 0.0' in after
