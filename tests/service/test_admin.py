"""The admin socket answers operators, takes bundles from one place only, and suffers nothing from whoever is there."""

import os
import shutil
import stat
import threading

import pytest
from bedplate.engine.admin import Admin
from bedplate.wire import Frame, Type

from tests.service.engine_tools import DEADLINE_S, Peer, bright, raw, wait_until
from tests.service.models_tools import connected, serving_engine, write_version


@pytest.fixture
def engine(tmp_path):
    with serving_engine(tmp_path) as engine:
        yield engine


@pytest.fixture
def operator(engine):
    operator = Peer(engine.admin)
    yield operator
    operator.leave()


def still_answers(engine):
    with connected(engine) as peer:
        peer.predict(1, bright())
        return peer.receive().type is Type.RESULT


def test_a_question_is_answered_under_its_id(operator):
    operator.send(Frame(Type.ADMIN, 7, {"do": "list"}))

    answer = operator.receive()

    assert (answer.type, answer.id, answer.meta["ok"]) == (Type.ADMIN_ANSWER, 7, True)
    [model] = answer.meta["models"]
    assert (model["name"], model["version"], model["aliases"]) == ("lamp", "1", ["default"])
    assert (model["weights_bytes"], model["max_items"]) == (40, 8)
    assert model["loaded_at"] > 0
    assert len(model["digest"]) == 64


def test_the_socket_is_for_its_group_alone(engine):
    assert stat.S_IMODE(engine.admin.stat().st_mode) == 0o660


def test_the_socket_goes_with_the_engine(tmp_path):
    with serving_engine(tmp_path) as engine:
        assert engine.admin.exists()

    assert not engine.admin.exists()


@pytest.mark.parametrize(
    ("question", "told"),
    [
        ({}, "'do' is not known; wanted one of list"),
        ({"do": "stop"}, "'do' is not known"),
        ({"do": ["list"]}, "'do' is not known"),
        ({"do": "list", "name": "lamp"}, "'name' are not known"),
        ({"do": "load"}, "'directory' does not do"),
        ({"do": "load", "directory": 1}, "'directory' does not do"),
        ({"do": "load", "directory": ""}, "'directory' does not do"),
        ({"do": "load", "directory": "lamp/2", "swap": "yes"}, "'swap' does not do; wanted true or false"),
        ({"do": "load", "directory": "lamp/2", "force": True}, "'force' are not known"),
        ({"do": "promote", "name": "lamp"}, "'version' does not do"),
        ({"do": "promote", "name": "lamp", "version": "9"}, "lamp 9 is not loaded"),
        ({"do": "promote", "name": "x", "version": "1"}, "x 1 is not loaded"),
        ({"do": "promote", "name": "lamp", "version": "1", "alias": "Fast!"}, "alias 'Fast!' does not do"),
        ({"do": "promote", "name": "lamp", "version": "1", "alias": None}, "'alias' does not do"),
        ({"do": "unload", "name": "lamp", "version": "1"}, "all that is served"),
        ({"do": "unload", "name": {}, "version": "1"}, "'name' does not do"),
    ],
)
def test_a_question_that_does_not_do_is_refused_and_the_next_one_answered(engine, question, told):
    assert told in engine.ask(**question)["error"]
    assert engine.loaded() == {"1": ["default"]}


# Beside the models there is a bundle that would load, and links to it.
OUTSIDE = [
    "../outside",
    "../models-beside",
    "lamp/../../outside",
    "lamp/1/../../../outside",
    "./../outside",
    "..",
    ".",
    "",
    "/",
    "/etc",
    "/proc/self/root",
    "//etc",
    "link",
    "lamp/link",
    "chain",
    "up/outside",
    "loop",
    "lamp/\0../../outside",
    "lamp/1\n",
    "x" * 5000,
    "a/" * 2000,
    "~root",
    "lamp/1/bundle.yaml/../../../../outside",
    "%2e%2e/outside",
    "..\\outside",
]


@pytest.mark.parametrize("directory", OUTSIDE, ids=lambda text: repr(text)[:30])
def test_nothing_is_loaded_from_elsewhere(engine, tmp_path, directory):
    write_version(tmp_path / "elsewhere", "2").rename(tmp_path / "outside")
    for name, target in [("link", tmp_path / "outside"), ("lamp/link", "../../outside"), ("chain", "lamp/link")]:
        os.symlink(target, engine.models / name)
    shutil.copytree(tmp_path / "outside", tmp_path / "models-beside")
    os.symlink("..", engine.models / "up")
    os.symlink("loop", engine.models / "loop")

    refusal = engine.ask(do="load", directory=directory)

    assert not refusal["ok"]
    assert engine.loaded() == {"1": ["default"]}


def test_the_bundle_outside_would_load_if_it_were_inside(engine, tmp_path):
    write_version(tmp_path / "elsewhere", "2").rename(engine.models / "inside")

    assert engine.ask(do="load", directory=str(engine.models / "inside"))["ok"]


def test_a_place_outside_is_refused_in_the_same_words_whether_it_is_there_or_not(engine):
    there, not_there = (engine.ask(do="load", directory=path)["error"] for path in ("/etc", "/not-there"))

    assert there.replace("/etc", "") == not_there.replace("/not-there", "")


def test_without_a_place_for_models_nothing_is_loaded_by_hand(tmp_path):
    with serving_engine(tmp_path, models_dir=None) as engine:
        assert "set models_dir" in engine.ask(do="load", directory="lamp/1")["error"]


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\nHost: engine\r\n\r\n",
        bytes(64),
        raw(Frame(Type.PREDICT, 1, {})),
        raw(Frame(Type.DESCRIBE, 1, {})),
        raw(Frame(Type.ADMIN_ANSWER, 1, {"ok": True})),
        raw(Frame(Type.ADMIN, 1, {"do": "list"}, b"tensor")),
        raw(Frame(Type.ADMIN, 1, {"do": "list"}))[:28] + b"\xff\xff\xff\x3f",  # announces a gigabyte
        raw(Frame(Type.ADMIN, 1, {"do": "list"})).replace(b"}", b"]"),
        raw(Frame(Type.ADMIN, 1, {"do": "list"})).replace(b"\x01\x07", b"\x01\x09"),
    ],
)
def test_what_breaks_the_protocol_closes_the_connection_and_no_other(engine, operator, garbage):
    operator.send_raw(garbage)

    assert operator.is_closed_by_engine()
    assert engine.loaded() == {"1": ["default"]}
    assert still_answers(engine)


def test_a_second_question_before_the_answer_closes_the_connection(engine, operator):
    operator.send_raw(raw(Frame(Type.ADMIN, 1, {"do": "list"})) * 2)

    assert operator.is_closed_by_engine()


def test_a_web_may_not_ask_as_an_operator(engine):
    with connected(engine) as peer:
        peer.send(Frame(Type.ADMIN, 1, {"do": "list"}))

        assert peer.is_closed_by_engine()


def test_what_an_operator_asked_is_done_though_he_leaves(engine, operator):
    write_version(engine.models, "2")
    with engine.held_device():
        operator.send(Frame(Type.ADMIN, 1, {"do": "load", "directory": "lamp/2"}))
        wait_until(engine.loader._lock.locked)
        operator.leave()
        wait_until(lambda: not engine.operators)

    wait_until(lambda: engine.loaded() == {"1": ["default"], "2": []})
    assert still_answers(engine)


def test_a_load_is_given_up_when_the_engine_stops(tmp_path):
    with serving_engine(tmp_path) as engine:
        write_version(engine.models, "2")
        with engine.held_device() as holding:
            asking = threading.Thread(target=engine.ask, kwargs={"do": "load", "directory": "lamp/2"})
            asking.start()
            wait_until(engine.loader._lock.locked)
            engine.loop.call_soon_threadsafe(engine._stop.set)
            asking.join(DEADLINE_S)
            wait_until(lambda: engine.server.batcher._draining)
            # So nobody has waited for the load, which waits for the device.
            assert not holding.done()

    assert not asking.is_alive()


def test_operators_who_never_hang_up_leave_the_engine_alone(engine):
    operators = [Peer(engine.admin) for _ in range(70)]

    wait_until(lambda: len(engine.operators) == 64)
    assert operators[-1].is_closed_by_engine()
    assert still_answers(engine)
    for operator in operators:
        operator.leave()
    wait_until(lambda: engine.ask(do="list")["ok"])


def test_a_fault_of_ours_is_told_without_its_reason_and_logged(engine, caplog):
    class Broken:
        def stats(self):
            raise RuntimeError("secret detail")

    answer = engine.do(Admin(Broken(), None).answer({"do": "list"})).result(DEADLINE_S)

    assert answer == {"ok": False, "error": "it failed; the log of the engine says why"}
    assert "secret detail" in caplog.text
