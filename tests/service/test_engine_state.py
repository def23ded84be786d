"""What was done by hand outlives a crash, and never keeps an engine down."""

import json
import shutil
import stat

import numpy as np
import pytest
import yaml
from bedplate.commands import models
from bedplate.engine.settings import EngineSettings
from bedplate.engine.state import ServedState, State

from tests.service.engine_tools import Peer, bright, logits_of, write_lamp
from tests.service.lamp import lamp_logits
from tests.service.models_tools import serving_engine, write_version
from tests.service.test_engine_process import START_S, Systemd, events, process


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "admin").mkdir()
    for version in "12":
        write_version(tmp_path / "models", version)
    write_settings(tmp_path)
    return tmp_path


def write_settings(folder, **changes):
    settings = {
        "socket_dir": str(folder),
        "bundles": [str(folder / "models/lamp/1")],
        "admin_dir": str(folder / "admin"),
        "models_dir": str(folder / "models"),
        **changes,
    }
    (folder / "engine.yaml").write_text(yaml.safe_dump(settings))


@pytest.fixture
def systemd(folder):
    systemd = Systemd(folder)
    yield systemd
    systemd.close()


def ask(folder, **question):
    return models.ask(folder / "admin" / "cpu0.sock", question, START_S)


def loaded(folder):
    return {model["version"]: model["aliases"] for model in ask(folder, do="list")["models"]}


def load_two_and_kill(folder, systemd):
    with process(folder, NOTIFY_SOCKET=systemd.address) as engine:
        assert systemd.next()[0] == "READY=1"
        ask(folder, do="load", directory="lamp/2")
        ask(folder, do="promote", name="lamp", version="2")
        ask(folder, do="unload", name="lamp", version="1")
        engine.kill()
        engine.wait(START_S)


def test_a_killed_engine_comes_back_with_what_was_done_by_hand(folder, systemd):
    load_two_and_kill(folder, systemd)

    with process(folder, NOTIFY_SOCKET=systemd.address):
        assert systemd.next()[0] == "READY=1"

        assert loaded(folder) == {"2": ["default"]}
        peer = Peer(folder / "cpu0.sock")
        peer.predict(1, bright())
        assert np.allclose(logits_of(peer.receive()), 2 * lamp_logits(bright()))
        peer.leave()
    assert (folder / "cpu0.state.json").exists()


def break_the_promise(folder):
    # Its sums are right; only the warm-up finds out.
    write_lamp(folder / "models/lamp/2", version="2", network=["flatten"], weights={})


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda folder: shutil.rmtree(folder / "models/lamp/2"), "what was loaded by hand is not served again"),
        (break_the_promise, "what was loaded by hand is not served again"),
        (lambda folder: write_settings(folder, queue_limit=7), "the state is of other settings and is ignored"),
    ],
)
def test_an_engine_that_cannot_come_back_with_it_serves_its_settings(folder, systemd, spoil, told):
    load_two_and_kill(folder, systemd)
    spoil(folder)

    with process(folder, NOTIFY_SOCKET=systemd.address) as engine:
        assert systemd.next()[0] == "READY=1"
        assert loaded(folder) == {"1": ["default"]}
        engine.terminate()
        _, stderr = engine.communicate(timeout=START_S)

    assert any(event.startswith(told) for event in events(stderr))
    assert not list(folder.glob("cpu0.state*"))


def test_a_bundle_that_does_not_run_keeps_none_of_the_others_from_being_served(folder, systemd):
    bundles = [str(folder / "models/lamp" / version) for version in "21"]
    write_settings(folder, bundles=bundles, aliases=["lamp/default=2", "lamp/fast=1"])
    break_the_promise(folder)

    with process(folder, NOTIFY_SOCKET=systemd.address) as engine:
        assert systemd.next()[0] == "READY=1"
        served = loaded(folder)
        engine.terminate()
        _, stderr = engine.communicate(timeout=START_S)

    assert served == {"1": ["default", "fast"]}
    refused = next(event for event in events(stderr) if event.startswith("a bundle is refused: "))
    assert "lamp 2: outputs[0]: network gives float32 (1, 4), bundle.yaml says float32 (1, 2)" in refused


@pytest.fixture
def settings(tmp_path):
    return EngineSettings(socket_dir=tmp_path, bundles=(tmp_path,))


def test_a_state_is_read_back_once_and_is_nobody_elses(settings, tmp_path):
    State(settings, "cpu0").save([tmp_path / "a"], {"lamp": {"default": "1"}})
    file = tmp_path / "cpu0.state.json"
    mode = stat.S_IMODE(file.stat().st_mode)

    taken = State(settings, "cpu0").take()

    assert taken == ServedState((tmp_path / "a",), {"lamp": {"default": "1"}})
    assert mode == 0o600
    assert not file.exists()


def test_a_state_that_its_engine_died_of_is_not_tried_again(settings, caplog):
    State(settings, "cpu0").save([settings.socket_dir], {})
    State(settings, "cpu0").take()  # and no word from that engine any more

    again = State(settings, "cpu0").take()

    assert again is None
    assert "ended while it applied its state" in caplog.text
    assert not list(settings.socket_dir.iterdir())


def good(settings):
    State(settings, "cpu0").save([settings.socket_dir], {})
    return json.loads((settings.socket_dir / "cpu0.state.json").read_text())


@pytest.mark.parametrize(
    "change",
    [
        lambda document: "",
        lambda document: "{",
        lambda document: "[" * 100_000,
        lambda document: "[]",
        lambda document: "{}",
        lambda document: json.dumps({**document, "bundles": None}),
        lambda document: json.dumps({**document, "bundles": [7]}),
        lambda document: json.dumps({**document, "aliases": []}),
        lambda document: json.dumps({**document, "aliases": {"lamp": "1"}}),
    ],
)
def test_a_state_that_is_none_is_ignored(settings, caplog, change):
    document = good(settings)
    (settings.socket_dir / "cpu0.state.json").write_text(change(document))

    assert State(settings, "cpu0").take() is None
    assert "is of no use" in caplog.text
    assert not list(settings.socket_dir.iterdir())


def test_a_state_that_cannot_be_written_costs_no_load(tmp_path, caplog):
    with serving_engine(tmp_path) as engine:
        (tmp_path / "cpu0.state.new").mkdir()
        write_version(engine.models, "2")

        answer = engine.ask(do="load", directory="lamp/2")

    assert answer["ok"]
    assert "the state was not written" in caplog.text


def test_the_settings_aliases_are_served(tmp_path):
    two = write_version(tmp_path / "models", "2")
    aliases = ("lamp/default=2", "lamp/stable=1")
    with serving_engine(tmp_path, bundles=(tmp_path / "models/lamp/1", two), aliases=aliases) as engine:
        assert engine.loaded() == {"1": ["stable"], "2": ["default"]}
