"""Engines on GPUs: which ones a host gets, what each may touch, and what is told of their GPUs."""

from __future__ import annotations

import re

import pytest
import yaml
from bedplate.gpu_metrics.settings import GpuMetricsSettings
from bedplate.process.settings import load
from exposure import assert_exposure, needs_systemd

# The driver numbers them in the order in which it found them, which need not be that of their addresses.
FIRST = {"address": "0000:17:00.0", "device": 0x2330, "bound": "nvidia", "uuid": "GPU-0a", "minor": 1}
SECOND = {"address": "0000:ca:00.0", "device": 0x2330, "bound": "nvidia", "uuid": "GPU-0b", "minor": 0}
WITHOUT_DRIVER = FIRST | {"bound": "", "uuid": "", "minor": None}
DROP_IN = "/etc/systemd/system/bedplate-engine@{}.service.d/gpu.conf"
BUNDLES = {"__bedplate_served": ["digits/1"]}


def facts(*gpus):
    return {"ansible_facts": {"distribution_release": "noble", "nvidia": {"gpus": list(gpus)}} | PYTHON}


PYTHON = {"python": {"version": {"major": 3, "minor": 12}}}


@pytest.fixture
def told(evaluate):
    return lambda expression, *gpus, **settings: evaluate(
        "bedplate", "{{ " + expression + " }}", **facts(*gpus), **BUNDLES, **settings
    )


@pytest.fixture
def drop_ins(told, render):
    """By path, what a host of two GPUs gets."""
    files = told("__bedplate_gpu_files", FIRST, SECOND)
    return {file["path"]: render("bedplate", file["src"], **file["vars"]) for file in files}


def values(text, key):
    return re.findall(rf"^{key}=(.*)$", text, re.MULTILINE)


@pytest.mark.parametrize(
    ("gpus", "declared", "engines"),
    [
        ([], [], ["cpu0"]),
        ([FIRST], [], ["gpu0"]),
        ([FIRST, SECOND], [], ["gpu0", "gpu1"]),
        ([FIRST, SECOND], ["gpu1"], ["gpu1"]),
        ([FIRST], ["cpu0", "cpu1"], ["cpu0", "cpu1"]),
    ],
)
def test_engines_follow_from_the_gpus_unless_they_are_declared(told, gpus, declared, engines):
    assert told("__bedplate_engines", *gpus, bedplate_engines=declared) == engines


def test_a_host_whose_gpus_nobody_has_looked_for_computes_on_processors(evaluate):
    assert evaluate("bedplate", "{{ __bedplate_engines }}") == ["cpu0"]


@pytest.mark.parametrize(
    ("gpus", "declared", "untold"),
    [
        ([FIRST, SECOND], [], []),
        ([FIRST], ["gpu0", "gpu1"], ["gpu1"]),
        ([WITHOUT_DRIVER, SECOND], [], ["gpu0"]),
        ([FIRST | {"uuid": ""}], [], ["gpu0"]),
        ([FIRST | {"minor": None}], [], ["gpu0"]),
        ([WITHOUT_DRIVER], ["cpu0"], []),
        ([], ["gpu0"], ["gpu0"]),
    ],
)
def test_engines_are_refused_that_no_working_gpu_is_there_for(told, gpus, declared, untold):
    assert told("__bedplate_untold_gpus", *gpus, bedplate_engines=declared) == untold


@pytest.mark.parametrize(("engine", "gpu"), [("gpu0", FIRST), ("gpu1", SECOND)])
def test_each_engine_may_touch_its_one_gpu(drop_ins, engine, gpu):
    text = drop_ins[DROP_IN.format(engine)]

    assert values(text, "Environment") == [f"CUDA_VISIBLE_DEVICES={gpu['uuid']}"]
    nodes = [f"/dev/nvidia{gpu['minor']}", "/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools"]
    assert values(text, "DeviceAllow") == [f"{node} rw" for node in nodes]
    assert values(text, "PrivateDevices") == values(text, "ProtectClock") == ["no"]
    assert values(text, "Wants") == ["nvidia-devices.service"]
    assert "nvidia-devices.service" in values(text, "After")[0].split()


def test_each_gpu_has_a_drop_in_and_processors_have_none(drop_ins, told):
    assert list(drop_ins) == [DROP_IN.format("gpu0"), DROP_IN.format("gpu1")]
    assert told("__bedplate_gpu_files") == []
    assert told("__bedplate_gpu_files", FIRST, bedplate_engines=["cpu0"]) == []


def test_an_engine_is_restarted_for_its_drop_in(told):
    units = told("__bedplate_units", FIRST)

    assert DROP_IN.format("gpu0") in next(
        unit["restart_for"] for unit in units if unit["name"] == "bedplate-engine@gpu0.service"
    )


@pytest.mark.parametrize(
    ("gpus", "declared", "wheels"),
    [([FIRST], [], "cp312-cuda"), ([FIRST], ["cpu0"], "cp312-cpu"), ([], [], "cp312-cpu")],
)
def test_wheels_are_made_for_what_hosts_install(told, evaluate, gpus, declared, wheels):
    host = facts(*gpus) | {"bedplate_engines": declared}

    made = evaluate("wheelhouse", "{{ __wheelhouse_sets }}", ansible_play_hosts=["gpu1"], hostvars={"gpu1": host})

    assert made == [wheels]
    assert told("__bedplate_set", *gpus, bedplate_engines=declared) == wheels


@needs_systemd
def test_exposure_of_an_engine_on_a_gpu_stays_below_its_bar(render, drop_ins, tmp_path):
    path = tmp_path / "bedplate-engine@gpu0.service"
    engine = render("bedplate", "etc/systemd/system/bedplate-engine@.service.j2", **facts(FIRST))
    path.write_text(engine)
    drop_in = tmp_path / "bedplate-engine@gpu0.service.d/gpu.conf"
    drop_in.parent.mkdir()
    drop_in.write_text(drop_ins[DROP_IN.format("gpu0")])

    assert_exposure(path, 10)


@needs_systemd
def test_exposure_of_gpu_metrics_stays_below_its_bar(render, tmp_path):
    path = tmp_path / "bedplate-gpu-metrics.service"
    path.write_text(render("bedplate", "etc/systemd/system/bedplate-gpu-metrics.service.j2", **facts(FIRST)))

    assert_exposure(path, 10)


def test_gpu_metrics_may_touch_every_gpu_and_compute_on_none(render):
    text = render("bedplate", "etc/systemd/system/bedplate-gpu-metrics.service.j2", **facts(FIRST, SECOND))

    assert values(text, "DeviceAllow") == ["/dev/nvidiactl rw", "/dev/nvidia1 rw", "/dev/nvidia0 rw"]
    assert values(text, "PrivateDevices") == values(text, "ProtectClock") == []


def test_the_program_takes_the_settings_of_a_host(render, tmp_path):
    path = tmp_path / "gpu-metrics.yaml"
    path.write_text(render("bedplate", "etc/bedplate/gpu-metrics.yaml.j2", **facts(FIRST, SECOND)))

    assert load(GpuMetricsSettings, path).gpus == ("GPU-0a", "GPU-0b")


@pytest.mark.parametrize(("gpus", "asked"), [([FIRST], True), ([], False)])
def test_metrics_asks_for_gpus_where_there_are_some(render, told, gpus, asked):
    settings = yaml.safe_load(render("bedplate", "etc/bedplate/metrics.yaml.j2", **facts(*gpus)))
    target = render("bedplate", "etc/systemd/system/bedplate.target.j2", **facts(*gpus))
    unit = next(unit for unit in told("__bedplate_units", *gpus) if unit["name"] == "bedplate-gpu-metrics.service")

    assert ("/run/bedplate/metrics/gpus/gpus.sock" in settings["sockets"]) is asked
    assert ("bedplate-gpu-metrics.service" in values(target, "Wants")) is asked
    assert unit["state"] == ("started" if asked else "stopped")
