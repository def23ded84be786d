"""What an engine believes of what was found out about a model, and what it serves otherwise."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import json

import pytest
import torch
from bedplate.bundle.bundle import read_bundle
from bedplate.engine.metrics import EngineMetrics
from bedplate.engine.model import Model
from bedplate.engine.prepared import ArtifactStore, Host, Record, Unusable, place_of, write_record
from bedplate.engine.settings import EngineSettings
from bedplate.engine.start import start
from bedplate.engine.variant import ModelVariant

from tests.service.engine_tools import bright, write_lamp

HERE = Host.here("cpu", 1)
CODE = b"native code"


@pytest.fixture
def lamp(tmp_path):
    return read_bundle(write_lamp(tmp_path / "lamp"))


@pytest.fixture
def shelf(tmp_path):
    (tmp_path / "shelf").mkdir(mode=0o755)
    return tmp_path / "shelf"


@pytest.fixture
def put(shelf, lamp):
    """Puts a record on the shelf, with native code where it names some; returns its place."""

    def put(host=HERE, **changes):
        record = Record("lamp", "1", lamp.digest, host, "bfloat16", False, None, None, 0.5)
        place = place_of(shelf, lamp, HERE)
        place.mkdir(parents=True, exist_ok=True)
        (place / "model.pt2").write_bytes(CODE)
        write_record(place, dataclasses.replace(record, **changes))
        for path in (place, place.parent, place.parent.parent, *place.iterdir()):
            path.chmod(path.stat().st_mode & ~0o022)
        return place

    return put


def compiled(**changes):
    digest = hashlib.sha256(CODE).hexdigest()
    return {"precision": "float32", "package": "model.pt2", "package_sha256": digest, **changes}


def test_a_record_says_how_to_compute(shelf, lamp, put):
    put(precision="bfloat16", channels_last=True)

    assert ArtifactStore(shelf, HERE).form_of(lamp) == ModelVariant("bfloat16", True)


def test_native_code_of_a_record_is_named(shelf, lamp, put):
    place = put(**compiled())

    form = ArtifactStore(shelf, HERE).form_of(lamp)

    assert (form.package, form.name) == (place / "model.pt2", "float32-compiled")


def test_without_a_record_nothing_is_known(shelf, lamp):
    assert ArtifactStore(shelf, HERE).form_of(lamp) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"digest": "0" * 64},
        {"version": "2"},
        {"format": 1},
        {"precision": "float16"},
        {"channels_last": "yes"},
        {"precision": "int8"},
        compiled(package="../model.pt2"),
        compiled(package_sha256="0" * 64),
        {"host": dataclasses.replace(HERE, torch="2.12.0")},
        {"host": dataclasses.replace(HERE, cpu="0" * 64)},
        {"host": dataclasses.replace(HERE, threads=2)},
    ],
    ids=str,
)
def test_a_record_of_something_else_does_not_count(shelf, lamp, put, changes):
    put(**changes)

    with pytest.raises(Unusable):
        ArtifactStore(shelf, HERE).read(lamp)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"host": 1}', "[" * 100_000], ids=range(5))
def test_a_damaged_record_does_not_count(shelf, lamp, put, text):
    (put() / "record.json").write_text(text)

    assert ArtifactStore(shelf, HERE).form_of(lamp) is None


@pytest.mark.parametrize("which", [".", "..", "../..", "../../..", "record.json", "model.pt2"])
def test_what_others_may_write_does_not_count(shelf, lamp, put, which):
    path = (put(**compiled()) / which).resolve()
    path.chmod(path.stat().st_mode | 0o020)

    with pytest.raises(Unusable, match="others than the owner"):
        ArtifactStore(shelf, HERE).read(lamp)


def test_a_link_to_native_code_does_not_count(shelf, lamp, put, tmp_path):
    place = put(**compiled())
    (place / "model.pt2").rename(tmp_path / "elsewhere")
    (place / "model.pt2").symlink_to(tmp_path / "elsewhere")

    with pytest.raises(Unusable):
        ArtifactStore(shelf, HERE).read(lamp)


def served(tmp_path, shelf):
    settings = EngineSettings(tmp_path, (tmp_path / "lamp",), prepared_dir=shelf)

    async def run():
        server, loader = await start(settings, "cpu0", torch.device("cpu"), EngineMetrics(), lambda: None, Model.load)
        try:
            return loader.stats()[0]["form"], server.catalogue.models[0].run(bright())
        finally:
            await server.drain()
            loader.close()

    return asyncio.run(run())


def test_an_engine_serves_the_form_of_its_record(tmp_path, shelf, put):
    put(precision="bfloat16")

    form, answer = served(tmp_path, shelf)

    assert form == "bfloat16"
    assert answer.tolist() == [[-1.0, 1.0]]


@pytest.mark.parametrize("changes", [compiled(), compiled(package_sha256="0" * 64)], ids=["no code", "another sum"])
def test_an_engine_serves_the_bundle_where_its_native_code_does_not_do(tmp_path, shelf, put, changes):
    put(**changes)

    form, answer = served(tmp_path, shelf)

    assert form == "float32"
    assert answer.tolist() == [[-1.0, 1.0]]


def test_an_engine_that_ended_in_native_code_serves_the_bundle_the_next_time(tmp_path, shelf, put):
    put(precision="bfloat16")
    (tmp_path / "cpu0.native.trying").touch()

    assert served(tmp_path, shelf)[0] == "float32"
    assert served(tmp_path, shelf)[0] == "bfloat16"


def test_records_are_json_that_a_person_can_read(put):
    document = json.loads((put() / "record.json").read_text())

    assert document["host"]["torch"] == torch.__version__
    assert document["precision"] == "bfloat16"
