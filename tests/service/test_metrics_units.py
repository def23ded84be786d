"""The figures of all units as one text that Prometheus takes."""

from pathlib import Path

import pytest
from bedplate import __version__
from bedplate.engine.metrics import EngineMetrics
from bedplate.metrics.units import Units
from bedplate.telemetry import exposition
from bedplate.web.metrics import WebMetrics
from prometheus_client import CollectorRegistry, Counter, generate_latest

WEB_1, WEB_2, ENGINE = Path("/run/web@1.sock"), Path("/run/web@2.sock"), Path("/run/engine@cpu0.sock")


def web(predictions):
    metrics = WebMetrics()
    metrics.request("predict", 200, 0.02)
    for _ in range(predictions):
        metrics.error("engine-busy")
    return exposition.text(metrics.registry).decode()


@pytest.fixture
def told():
    return {WEB_1: web(1), WEB_2: web(2), ENGINE: exposition.text(EngineMetrics().registry).decode()}


@pytest.fixture
def merged(told):
    """A registry that asks the units; what is in `told` is what they answer."""
    registry = CollectorRegistry()
    registry.register(Units([WEB_1, WEB_2, ENGINE], lambda _: told, exposition.new_registry()))
    return registry


def test_each_series_says_its_unit(merged):
    value = merged.get_sample_value

    assert value("bedplate_errors_total", {"type": "engine-busy", "unit": "web@1"}) == 1
    assert value("bedplate_errors_total", {"type": "engine-busy", "unit": "web@2"}) == 2
    assert value("bedplate_request_seconds_bucket", {"route": "predict", "le": "0.025", "unit": "web@1"}) == 1
    assert value("bedplate_request_seconds_count", {"route": "predict", "unit": "web@1"}) == 1
    assert value("bedplate_queue_depth", {"unit": "engine@cpu0"}) == 0
    assert value("process_open_fds", {"unit": "web@1"}) > 0
    assert value("process_open_fds", {"unit": "metrics"}) > 0


def test_each_family_is_declared_once_with_its_type(merged):
    text = generate_latest(merged).decode()

    declared = [line.split()[2:] for line in text.splitlines() if line.startswith("# TYPE")]
    assert len({name for name, _ in declared}) == len(declared)
    assert ["bedplate_errors_total", "counter"] in declared
    assert ["bedplate_request_seconds", "histogram"] in declared
    assert ["bedplate_queue_depth", "gauge"] in declared


def test_a_unit_that_did_not_answer_is_down_and_the_others_are_told(merged, told):
    del told[WEB_1]

    up = {
        unit: merged.get_sample_value("bedplate_unit_up", {"unit": unit}) for unit in ("web@1", "web@2", "engine@cpu0")
    }

    assert up == {"web@1": 0, "web@2": 1, "engine@cpu0": 1}
    assert merged.get_sample_value("bedplate_errors_total", {"type": "engine-busy", "unit": "web@2"}) == 2


@pytest.mark.parametrize("rubbish", ["\x00", "{", "# TYPE a nothing\na 1", "a one", 'a{b="c" 1', "é 1"])
def test_a_unit_that_tells_rubbish_is_down_and_the_others_are_told(merged, told, rubbish):
    told[WEB_1] = f"{rubbish}\n# EOF\n"

    text = generate_latest(merged).decode()

    assert 'bedplate_unit_up{unit="web@1"} 0.0' in text
    assert 'bedplate_unit_up{unit="web@2"} 1.0' in text


def test_a_unit_cannot_speak_for_another_or_for_this_program(merged, told):
    told[WEB_1] = (
        'bedplate_unit_up{unit="web@2"} 7.25\nbedplate_build_info{version="x"} 7.25\n'
        'bedplate_lamps{unit="web@2"} 7.25\nredis_up 7.25\n# EOF\n'
    )

    text = generate_latest(merged).decode()

    assert merged.get_sample_value("bedplate_unit_up", {"unit": "web@2"}) == 1
    assert 'bedplate_lamps{unit="web@1"} 7.25' in text
    assert text.count(" 7.25\n") == 1


def test_when_series_began_is_left_out(merged, told):
    other_release = CollectorRegistry()
    Counter("bedplate_lamps", "Lamps", registry=other_release).inc()
    told[WEB_1] = generate_latest(other_release).decode()
    assert "bedplate_lamps_created" in told[WEB_1]

    text = generate_latest(merged).decode()

    assert 'bedplate_lamps_total{unit="web@1"} 1.0' in text
    assert "_created" not in text


def test_the_release_is_told(merged):
    assert merged.get_sample_value("bedplate_build_info", {"version": __version__}) == 1


def test_a_change_is_logged_once(merged, told, caplog):
    caplog.set_level("INFO")
    for answer in (None, None, web(1), web(1)):
        told[WEB_1] = answer
        if answer is None:
            del told[WEB_1]
        generate_latest(merged)

    assert [record.getMessage() for record in caplog.records] == ["unit web@1 is down", "unit web@1 is up"]
