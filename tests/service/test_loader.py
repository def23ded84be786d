"""Models come and go while the engine serves: nobody who asks notices, and what fails changes nothing."""

import gc
import os
import shutil
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from bedplate.engine.loader import Loader, Origin
from bedplate.engine.memory import Memory
from bedplate.engine.model import Model
from bedplate.wire import Type

from tests.service.engine_tools import DEADLINE_S, bright, logits_of, wait_until, write_lamp
from tests.service.lamp import lamp_logits
from tests.service.models_tools import connected, serving_engine, write_version

CPU = torch.device("cpu")
WEIGHTS_BYTES = 40  # of a loaded lamp


@pytest.fixture
def engine(tmp_path):
    with serving_engine(tmp_path) as engine:
        yield engine


@pytest.fixture
def peer(engine):
    with connected(engine) as peer:
        yield peer


def answer_of(peer, version=None):
    peer.predict(1, bright(), version=version)
    while (frame := peer.receive()).type is Type.DESCRIPTION:
        pass
    return frame


def is_version(frame, version):
    return frame.meta["version"] == version and np.allclose(logits_of(frame), int(version) * lamp_logits(bright()))


def test_a_loaded_version_answers_beside_the_other(engine, peer):
    write_version(engine.models, "2")

    answer = engine.ask(do="load", directory="lamp/2")

    assert (answer["ok"], answer["name"], answer["version"], answer["changed"]) == (True, "lamp", "2", True)
    assert is_version(answer_of(peer, "2"), "2")
    assert is_version(answer_of(peer), "1")


def test_every_web_is_told_of_each_change(engine, peer):
    write_version(engine.models, "2")
    told = []

    for question in (
        {"do": "load", "directory": "lamp/2"},
        {"do": "promote", "name": "lamp", "version": "2"},
        {"do": "unload", "name": "lamp", "version": "1"},
    ):
        assert engine.ask(**question)["ok"]
        told.append(peer.receive())

    assert {(frame.type, frame.id) for frame in told} == {(Type.DESCRIPTION, 0)}
    assert [[model["version"] for model in frame.meta["models"]] for frame in told] == [["1", "2"], ["1", "2"], ["2"]]
    assert [frame.meta["aliases"]["lamp"]["default"] for frame in told] == ["1", "2", "2"]


def test_a_web_that_does_not_read_is_told_of_the_last_change_once_it_reads(engine, peer):
    wait_until(lambda: engine.server.connections)
    [connection] = engine.server.connections
    engine.loop.call_soon_threadsafe(connection.pause_writing)

    for alias in ("fast", "stable"):
        assert engine.ask(do="promote", name="lamp", version="1", alias=alias)["ok"]
    assert peer.hears_nothing()
    engine.loop.call_soon_threadsafe(connection.resume_writing)

    assert sorted(peer.receive().meta["aliases"]["lamp"]) == ["default", "fast", "stable"]
    assert peer.hears_nothing()


def test_loading_again_what_is_loaded_is_no_change(engine, peer):
    again = engine.ask(do="load", directory="lamp/1")

    assert (again["ok"], again["changed"]) == (True, False)
    assert peer.hears_nothing()


def test_other_content_under_a_loaded_version_is_refused(engine):
    write_version(engine.models, "1", description="not the same")

    refusal = engine.ask(do="load", directory="lamp/1")

    assert "is loaded with digest" in refusal["error"]
    assert "another version" in refusal["error"]


def tamper(directory):
    with (directory / "weights.safetensors").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x01")


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (tamper, "weights.safetensors: has sha256"),
        (shutil.rmtree, "cannot be listed"),
        (lambda directory: write_lamp(directory, version="2", network=["flatten"], weights={}), "outputs[0]: network"),
        (lambda directory: write_lamp(directory, version="default"), "'default' is an alias of lamp"),
        (lambda directory: write_lamp(directory, version="2", network=["exec"]), "'exec' does not do"),
    ],
)
def test_a_load_that_fails_says_why_and_changes_nothing(engine, peer, spoil, told):
    spoil(write_version(engine.models, "2"))

    refusal = engine.ask(do="load", directory="lamp/2")

    assert told in refusal["error"]
    assert engine.loaded() == {"1": ["default"]}
    assert is_version(answer_of(peer), "1")
    assert peer.hears_nothing()


def test_a_load_for_which_there_is_no_memory_changes_nothing(engine, peer):
    def read_model(bundle, directory):
        raise MemoryError

    loader = Loader(engine.server, read_model, Memory(None), {})

    failed = engine.do(loader.load(write_version(engine.models, "2")))

    assert "cannot be loaded (MemoryError)" in str(failed.exception(DEADLINE_S))
    assert is_version(answer_of(peer), "1")


def test_requests_go_on_between_the_batches_of_a_warm_up(engine, peer):
    begun, gate = threading.Event(), threading.Event()
    waiting = []  # requests, at the begin of each step after the first

    class Slow(Model):
        def warm_up_with(self, inputs):
            if not begun.is_set():
                begun.set()
                assert gate.wait(DEADLINE_S)
            else:
                waiting.append(engine.server.batcher.depth)

    loader = Loader(engine.server, lambda bundle, directory: Slow.load(bundle, directory, CPU), Memory(None), {})
    loading = engine.do(loader.load(write_version(engine.models, "2")))
    assert begun.wait(DEADLINE_S)
    peer.predict(1, bright())
    wait_until(lambda: engine.server.batcher.depth == 1)

    gate.set()
    loading.result(DEADLINE_S)

    # One item, two, four and eight: the request waited for the first alone.
    assert waiting == [0, 0, 0]


def test_what_waits_for_an_unloaded_version_is_answered_and_what_comes_then_is_not(engine, peer):
    write_version(engine.models, "2")
    engine.ask(do="load", directory="lamp/2")
    peer.receive()
    with engine.held_device():
        peer.predict(1, bright(), version="2")
        wait_until(lambda: engine.server.batcher.depth == 1)

        unloading = engine.do(engine.loader.unload("lamp", "2"))
        assert peer.receive().type is Type.DESCRIPTION
        peer.predict(2, bright(), version="2")
        refusal = peer.receive()
        assert not unloading.done()

    assert (refusal.id, refusal.meta["code"]) == (2, "unknown-model")
    assert is_version(peer.receive(), "2")
    unloading.result(DEADLINE_S)
    assert engine.loaded() == {"1": ["default"]}


def test_an_unloaded_model_is_gone_from_memory(engine, peer):
    write_version(engine.models, "2")
    engine.ask(do="load", directory="lamp/2")
    answer_of(peer, "2")
    held = next(model for model in engine.server.catalogue.models if model.bundle.version == "2")

    engine.ask(do="unload", name="lamp", version="2")

    assert not hasattr(held, "_module")


def test_figures_follow_what_is_loaded(engine):
    value = engine.metrics.registry.get_sample_value
    two = {"model": "lamp", "version": "2"}
    write_version(engine.models, "2")

    engine.ask(do="load", directory="lamp/2")
    engine.ask(do="promote", name="lamp", version="2", alias="fast")
    assert value("bedplate_model_info", two) == 1
    assert value("bedplate_model_weights_bytes", two) == WEIGHTS_BYTES
    assert value("bedplate_model_alias", {**two, "alias": "fast"}) == 1

    engine.ask(do="promote", name="lamp", version="1", alias="fast")
    engine.ask(do="unload", name="lamp", version="2")
    assert value("bedplate_model_info", two) is None
    assert value("bedplate_model_weights_bytes", two) is None
    assert value("bedplate_model_alias", {**two, "alias": "fast"}) is None
    assert value("bedplate_model_alias", {"model": "lamp", "alias": "fast", "version": "1"}) == 1


@pytest.mark.parametrize(
    ("limit", "device", "free"), [(None, None, None), (100, None, 60), (100, 50, 50), (None, 50, 50), (10, 50, 0)]
)
def test_room_is_what_is_left_of_the_bound_and_on_the_device(limit, device, free):
    model = SimpleNamespace(weights_bytes=40)

    assert Memory(limit, device and (lambda: device)).free_bytes([model]) == free


class Tight:
    """A loader of an engine that has no room for a second lamp, and that reads weights when it is let on."""

    def __init__(self, engine):
        self.two = write_version(engine.models, "2")
        self.needed = (self.two / "weights.safetensors").stat().st_size
        self.reading, self.gate = threading.Event(), threading.Event()
        self.fault = None
        origins = {("lamp", "1"): Origin(engine.models / "lamp" / "1", 0.0)}
        memory = Memory(WEIGHTS_BYTES + self.needed - 1)
        self.loader = Loader(engine.server, self._read_model, memory, origins, give_up=engine.gave_up.set)
        self._engine = engine

    def _read_model(self, bundle, directory):
        self.reading.set()
        assert self.gate.wait(DEADLINE_S)
        if self.fault and bundle.version == "2":
            raise self.fault
        return Model.load(bundle, directory, CPU)

    def swap(self):
        """Begins; returns once the old version is out and the new one is not in yet."""
        swapping = self._engine.do(self.loader.load(self.two, swap=True))
        assert self.reading.wait(DEADLINE_S)
        return swapping


@pytest.fixture
def tight(engine):
    tight = Tight(engine)
    yield tight
    tight.gate.set()
    tight.loader.close()


def test_what_does_not_fit_beside_is_refused_with_the_figures_and_the_next_step(engine, tight):
    refusal = engine.do(tight.loader.load(tight.two)).exception(DEADLINE_S)

    assert f"need {tight.needed} bytes, {tight.needed - 1} are free" in str(refusal)
    assert "--swap" in str(refusal)
    assert engine.loaded() == {"1": ["default"]}


def test_what_would_not_fit_in_anothers_place_either_is_refused_before_anything_is_touched(engine, peer, tight):
    loader = Loader(engine.server, tight._read_model, Memory(tight.needed - 1), {})

    refusal = engine.do(loader.load(tight.two, swap=True)).exception(DEADLINE_S)

    assert "unload another model first" in str(refusal)
    assert not tight.reading.is_set()
    assert is_version(answer_of(peer), "1")


def test_another_name_makes_no_room(engine, tight):
    other = write_lamp(engine.models / "other", name="other")

    refusal = engine.do(tight.loader.load(other, swap=True)).exception(DEADLINE_S)

    assert "no version of other could make room" in str(refusal)


def test_requests_wait_while_a_version_is_swapped_and_are_sent_back_for_the_new_one(engine, peer, tight):
    engine.ask(do="promote", name="lamp", version="1", alias="fast")
    peer.receive()
    swapping = tight.swap()
    peer.predict(1, bright(), version="1")
    peer.predict(2, bright())
    wait_until(lambda: engine.server.batcher.depth == 2)
    assert peer.hears_nothing()

    tight.gate.set()
    swapping.result(DEADLINE_S)

    described, *refused = (peer.receive() for _ in range(3))
    assert described.meta["aliases"] == {"lamp": {"default": "2", "fast": "2"}}
    assert [(frame.id, frame.meta["code"]) for frame in refused] == [(1, "unknown-model"), (2, "unknown-model")]
    assert is_version(answer_of(peer), "2")


def test_a_swap_that_fails_brings_the_old_version_back_and_its_requests_go_on(engine, peer, tight):
    tight.fault = MemoryError()
    swapping = tight.swap()
    peer.predict(1, bright())
    wait_until(lambda: engine.server.batcher.depth == 1)

    tight.gate.set()

    assert "cannot be loaded" in str(swapping.exception(DEADLINE_S))
    assert is_version(peer.receive(), "1")
    assert peer.hears_nothing()
    assert engine.ask(do="list")["models"][0]["weights_bytes"] == WEIGHTS_BYTES


@pytest.mark.parametrize("spoil", [tamper, lambda one: write_lamp(one, description="another under this version")])
def test_an_engine_that_lost_its_only_model_gives_up(engine, peer, tight, spoil):
    tight.fault = MemoryError()
    swapping = tight.swap()
    peer.predict(1, bright())
    wait_until(lambda: engine.server.batcher.depth == 1)
    spoil(engine.models / "lamp" / "1")

    tight.gate.set()

    assert swapping.exception(DEADLINE_S)
    assert engine.gave_up.wait(DEADLINE_S)
    assert peer.receive().meta["models"] == []
    assert peer.receive().meta["code"] == "unknown-model"


def test_a_probe_of_the_device_passes_while_the_only_model_is_swapped(engine, tight):
    swapping = tight.swap()
    seen = engine.server.batcher.batches

    engine.loop.call_soon_threadsafe(engine.server.probe)

    wait_until(lambda: engine.server.batcher.batches > seen)
    tight.gate.set()
    swapping.result(DEADLINE_S)


def test_a_promotion_waits_for_no_load(engine, peer, tight):
    loader = Loader(engine.server, tight._read_model, Memory(None), {("lamp", "1"): Origin(engine.models, 0.0)})
    loading = engine.do(loader.load(tight.two))
    assert tight.reading.wait(DEADLINE_S)

    engine.loop.call_soon_threadsafe(loader.promote, "lamp", "1", "stable")

    assert peer.receive().meta["aliases"]["lamp"]["stable"] == "1"
    assert not loading.done()
    tight.gate.set()
    loading.result(DEADLINE_S)


def models_in_memory():
    gc.collect()
    return sum(type(one) is Model and hasattr(one, "_module") for one in gc.get_objects())


def test_many_who_load_and_unload_at_once_leave_nothing_behind(engine):
    """Under load; each brings and takes a version of its own."""
    before = models_in_memory()
    gc.freeze()  # as main does: otherwise every unload walks through all of torch
    stop, wrong, answered = threading.Event(), [], []

    def ask_for_predictions():
        with connected(engine) as peer:
            while not stop.is_set():
                (answered if is_version(answer_of(peer), "1") else wrong).append(1)

    def come_and_go(version):
        for _ in range(20):
            loaded = engine.ask(do="load", directory=f"lamp/{version}")
            unloaded = engine.ask(do="unload", name="lamp", version=version)
            wrong.extend(answer for answer in (loaded, unloaded) if not answer["ok"])

    versions = [str(number) for number in range(2, 10)]
    for version in versions:
        write_version(engine.models, version)
    clients = [threading.Thread(target=ask_for_predictions) for _ in range(2)]
    operators = [threading.Thread(target=come_and_go, args=[version]) for version in versions]

    for thread in clients + operators:
        thread.start()
    for thread in operators:
        thread.join()
    stop.set()
    for thread in clients:
        thread.join()

    assert wrong == []
    assert len(answered) > 100
    assert engine.loaded() == {"1": ["default"]}
    gc.unfreeze()
    assert models_in_memory() == before
