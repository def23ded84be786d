"""`bedplate models`: every engine is asked, and whoever reads the exit status knows whether all did it."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from bedplate.commands import cli

from tests.service.models_tools import serving_engine, write_version

SERVICE = Path(__file__).parents[2] / "service"


@pytest.fixture
def engine(tmp_path):
    with serving_engine(tmp_path) as engine:
        yield engine


@pytest.fixture
def models(engine, capsys):
    """Runs the command; status, output and errors."""

    def run(verb, *arguments):
        status = cli.main(["models", verb, "--admin-dir", str(engine.admin.parent), *arguments])
        said = capsys.readouterr()
        return status, said.out, said.err

    return run


def second_engine_is_dead(engine):
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(engine.admin.parent / "cpu1.sock"))


def test_what_is_loaded_is_shown_as_a_table(models):
    status, out, err = models("list")

    heads, row = (line.split() for line in out.splitlines())
    assert (status, err) == (0, "")
    assert heads == ["DEVICE", "NAME", "VERSION", "ALIASES", "FORM", "WEIGHTS", "LOADED"]
    assert row[:6] == ["cpu0", "lamp", "1", "default", "float32", "0.0MB"]


def test_columns_stand_under_their_heads(models, engine):
    write_version(engine.models, "2-with-a-long-name")
    models("load", "lamp/2-with-a-long-name")

    _, out, _ = models("list")

    heads, first, second = out.splitlines()
    column = heads.index("ALIASES")
    assert first[column:].startswith("default")
    assert second[column:].startswith("-")


def test_a_version_is_loaded_promoted_and_unloaded(models, engine):
    write_version(engine.models, "2")

    said = [
        models("load", "lamp/2"),
        models("load", "lamp/2"),
        models("promote", "lamp", "2"),
        models("promote", "lamp", "2", "fast"),
        models("unload", "lamp", "1"),
    ]

    assert said == [
        (0, "cpu0: loaded lamp 2\n", ""),
        (0, "cpu0: lamp 2 is loaded already\n", ""),
        (0, "cpu0: lamp default is 2\n", ""),
        (0, "cpu0: lamp fast is 2\n", ""),
        (0, "cpu0: unloaded lamp 1\n", ""),
    ]
    assert engine.loaded() == {"2": ["default", "fast"]}


def test_programs_get_json(models, engine):
    second_engine_is_dead(engine)

    status, out, _ = models("stats", "--json")

    told = json.loads(out)
    assert status == 1
    assert [(model["device"], model["version"]) for model in told["models"]] == [("cpu0", "1")]
    assert list(told["errors"]) == ["cpu1"]


def test_what_an_engine_refuses_is_told_under_its_name(models):
    status, out, err = models("load", "lamp/3")

    assert (status, out) == (1, "")
    assert err.startswith("bedplate models: cpu0: ")
    assert "lamp/3: cannot be listed" in err


def test_a_dead_engine_is_named_and_the_others_are_asked(models, engine):
    second_engine_is_dead(engine)
    write_version(engine.models, "2")

    status, out, err = models("load", "lamp/2")

    assert status == 1
    assert out == "cpu0: loaded lamp 2\n"
    assert "cpu1: nobody answers on" in err
    assert "dead" in err


def test_nothing_is_promoted_unless_every_engine_can(models, engine):
    write_version(engine.models, "2")
    models("load", "lamp/2")
    second_engine_is_dead(engine)

    status, out, err = models("promote", "lamp", "2")

    assert (status, out) == (1, "")
    assert "nothing was promoted" in err
    assert engine.loaded() == {"1": ["default"], "2": []}


def test_one_engine_can_be_asked_alone(models, engine):
    second_engine_is_dead(engine)

    assert models("list", "--device", "cpu0")[0] == 0


def test_an_engine_that_does_not_answer_is_given_up(models, engine):
    with socket.socket(socket.AF_UNIX) as hung:
        hung.bind(str(engine.admin.parent / "cpu1.sock"))
        hung.listen()

        status, _, err = models("list", "--timeout", "0.1")

    assert status == 1
    assert "cpu1: no answer within 0.1 s" in err


@pytest.mark.parametrize(
    ("answer", "told"),
    [(b"", "the engine hung up"), (b"HTTP/1.1 400 Bad Request\r\n\r\n" + bytes(32), "magic bytes")],
)
def test_an_answer_that_is_none_is_told(engine, models, answer, told):
    path = engine.admin.parent / "cpu1.sock"
    program = f"""
import socket
server = socket.socket(socket.AF_UNIX)
server.bind({str(path)!r})
server.listen()
print(flush=True)
connection, _ = server.accept()
connection.recv(4096)
connection.sendall({answer!r})
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as stranger:
        stranger.stdout.readline()
        status, _, err = models("list", "--device", "cpu1")

    assert status == 1
    assert told in err


def test_without_an_engine_nobody_can_be_asked(tmp_path, capsys):
    there, not_there = (
        cli.main(["models", "list", "--admin-dir", str(path)]) for path in (tmp_path, tmp_path / "not there")
    )

    assert (there, not_there) == (2, 2)
    assert "is the engine running?" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["stop"], ["load"], ["promote", "lamp"], ["list", "--timeout", "nan"]])
def test_a_command_that_is_none_is_refused(arguments, capsys):
    with pytest.raises(SystemExit) as refusal:
        cli.main(["models", *arguments])

    assert refusal.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_the_command_needs_neither_torch_nor_falcon():
    program = "import sys; from bedplate.commands import cli; print({'torch', 'falcon', 'numpy'} & set(sys.modules))"

    loaded = subprocess.check_output([sys.executable, "-c", program], env={"PYTHONPATH": str(SERVICE)}, text=True)

    assert loaded == "set()\n"
