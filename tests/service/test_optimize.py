"""`bedplate bundle optimize`: every form of a small model, built, measured and kept for real."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from bedplate.bundle.bundle import read_bundle
from bedplate.bundle.manifest import write_manifest
from bedplate.bundle.tensor import Range
from bedplate.engine.metrics import EngineMetrics
from bedplate.engine.model import Model
from bedplate.engine.prepared import ArtifactStore, Host, place_of
from bedplate.engine.settings import EngineSettings
from bedplate.engine.start import start
from bedplate.engine.variant import ModelVariant
from bedplate.optimize.build import export_arguments
from bedplate.optimize.candidates import CANDIDATES, Figures, best_of, candidates_for, verdict
from bedplate.optimize.onnx import export
from bedplate.optimize.trials import TrialOptions, keep, optimize, remembered
from safetensors.torch import save_file

from tests.service.code_tools import write_coded, write_custom
from tests.service.engine_tools import bright, write_lamp

SERVICE = Path(__file__).parents[2] / "service"
HERE = Host.here("cpu", 1)
TERMS = TrialOptions("cpu0", 1, sorted(os.sched_getaffinity(0)), accuracy_loss=0.5, seconds=0.05, limit_s=240)


def write_known_lamp(directory, **changes):
    """With a validation set of 64 pictures."""
    write_lamp(
        directory, validation={"file": "validation.safetensors", "metric": "accuracy", "threshold": 0.9}, **changes
    )
    inputs = torch.linspace(-1, 1, 64).reshape(64, 1, 1, 1).expand(64, 1, 2, 2).contiguous()
    expected = (inputs.mean((1, 2, 3)) > 0).long()
    save_file({"inputs": inputs, "expected": expected}, directory / "validation.safetensors")
    write_manifest(directory)
    return directory


@pytest.fixture(scope="module")
def tried(tmp_path_factory):
    """The bundle's directory, the folder of all native code, and what every form did. Takes most of a minute."""
    folder = tmp_path_factory.mktemp("tried")
    directory = write_known_lamp(tmp_path_factory.mktemp("bundles") / "lamp")
    bundle = read_bundle(directory)
    # Each that is compiled costs a quarter of a minute, so one of them is left out.
    some = [one for one in candidates_for(bundle) if one.name != "bfloat16-compiled"]
    figures, _ = optimize(bundle, directory, TERMS, folder, lambda text: None, some)
    return directory, folder, {one.name: one for one in figures}


def test_every_form_is_built_and_measured(tried):
    _, _, figures = tried

    assert list(figures) == ["float32", "bfloat16", "float32-compiled", "int8-compiled"]
    for one in figures.values():
        assert one.items_per_s > 0, one
        assert one.p50_ms > 0
        assert one.memory_mb > 100
        assert one.accuracy >= 0.95, one


def test_native_code_is_ready_within_two_seconds(tried):
    _, _, figures = tried

    assert figures["float32-compiled"].build_s > figures["float32-compiled"].start_s
    assert max(one.start_s for one in figures.values()) < 2


@pytest.mark.parametrize("name", ["float32-compiled", "int8-compiled"])
def test_native_code_answers_batches_of_every_size(tried, name):
    directory, folder, figures = tried
    if figures[name].refused:
        pytest.skip(f"{name} is refused on this processor: {figures[name].refused}")
    bundle = read_bundle(directory)
    form = ModelVariant(package=folder / f"{name}.pt2")

    model = Model.load(bundle, directory, torch.device("cpu"), form)

    for items in range(1, bundle.max_items + 1):
        np.testing.assert_allclose(model.run(bright(items)), [[-1.0, 1.0]] * items, atol=0.05)


@pytest.mark.parametrize("wrong", [(1, 1, 3, 3), (1, 1, 2, 1), (9, 1, 2, 2)], ids=str)
def test_native_code_refuses_what_it_would_read_beyond(tried, wrong):
    directory, folder, _ = tried
    form = ModelVariant(package=folder / "float32-compiled.pt2")
    model = Model.load(read_bundle(directory), directory, torch.device("cpu"), form)

    with pytest.raises(RuntimeError, match="dim value"):
        model.run(torch.zeros(wrong).numpy())


def test_an_engine_serves_the_native_code_that_was_kept(tried, tmp_path):
    directory, folder, figures = tried
    bundle = read_bundle(directory)
    fast = dataclasses.replace(figures["float32-compiled"], items_per_s=1e9, refused="")
    place = keep(bundle, tmp_path, HERE, TERMS, [figures["float32"], fast], folder / "float32-compiled.pt2")

    async def form_served():
        settings = EngineSettings(tmp_path, (directory,), prepared_dir=tmp_path)
        server, loader = await start(settings, "cpu0", torch.device("cpu"), EngineMetrics(), lambda: None, Model.load)
        [row] = loader.stats()
        answer = server.catalogue.models[0].run(bright())
        await server.drain()
        loader.close()
        return row, answer

    row, answer = asyncio.run(form_served())

    assert row["form"] == "float32-compiled"
    assert row["weights_bytes"] == (place / "model.pt2").stat().st_size
    assert answer.tolist() == [[-1.0, 1.0]]


def bedplate(*arguments):
    program = [sys.executable, "-m", "bedplate", "bundle", "optimize", *map(str, arguments)]
    env = {**os.environ, "PYTHONPATH": str(SERVICE)}
    return subprocess.run(program, check=False, env=env, capture_output=True, text=True)


FORMS = "int8-compiled,float32-compiled,bfloat16,bfloat16-channels-last"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The command in full, for a bundle without a validation set and a machine without a C++ compiler."""
    directory = write_lamp(tmp_path_factory.mktemp("command") / "lamp")
    shelf = directory.parent / "shelf"
    shelf.mkdir()
    (directory.parent / "empty").mkdir()
    settings = directory.parent / "engine.yaml"
    document = {"socket_dir": str(directory.parent), "bundles": [str(directory)], "prepared_dir": str(shelf)}
    settings.write_text(json.dumps(document))
    os.environ["CXX"] = str(directory.parent / "empty/g++")
    try:
        done = bedplate("--settings", settings, "--seconds", "0.05", "--forms", FORMS)
    finally:
        del os.environ["CXX"]
    return settings, shelf, read_bundle(directory), done


def test_the_command_shows_one_table(run):
    _, _, _, done = run

    assert done.returncode == 0, done.stderr
    # float32 is always among them; layouts for pictures are none of a network without convolutions.
    forms = [line.split()[0] for line in done.stdout.splitlines()[2:6]]
    assert forms == ["float32", "bfloat16", "float32-compiled", "int8-compiled"]
    assert done.stdout.splitlines()[0] == "lamp 1 on cpu0, 1 thread; at most 0.5 points lost"
    assert done.stdout.count("<- serves") == 1
    for column in ("FORM", "ACCURACY", "ITEMS/S", "P50 MS", "MEMORY MB", "START S"):
        assert column in done.stdout.splitlines()[1]


def test_without_a_validation_set_only_equal_answers_do(run):
    _, shelf, bundle, done = run
    record = json.loads((place_of(shelf, bundle, HERE) / "record.json").read_text())
    bfloat16 = next(one for one in record["figures"] if one["name"] == "bfloat16")

    assert record["precision"] == "float32"
    assert bfloat16["refused"].startswith("no validation set") or bfloat16["difference"] < 1e-4
    assert "no validation set of what the network takes" in done.stdout


def test_without_a_compiler_that_is_the_reason(run):
    _, _, _, done = run

    [line] = [line for line in done.stdout.splitlines() if line.startswith("float32-compiled")]
    assert "compiler" in line.lower() or "g++" in line


def test_the_command_remembers(run):
    settings, shelf, bundle, _ = run
    before = (place_of(shelf, bundle, HERE) / "record.json").stat().st_mtime_ns

    again = bedplate("--settings", settings, "--forms", FORMS)

    assert again.stdout == "lamp 1: is optimized already\n"
    assert (place_of(shelf, bundle, HERE) / "record.json").stat().st_mtime_ns == before


def test_other_forms_are_not_remembered(run):
    _, shelf, bundle, _ = run

    def is_remembered(forms):
        return remembered(bundle, shelf, HERE, TERMS, candidates_for(bundle, forms.split(",")))

    assert is_remembered(FORMS)
    assert not is_remembered("bfloat16")


@pytest.mark.parametrize("write", [write_coded, write_custom])
def test_what_brings_a_program_stays_as_it_is(tmp_path, write):
    """On a host it stands beside others; a unit that fails for it would stay failed."""
    done = bedplate(write(tmp_path / "lamp"))

    assert (done.returncode, done.stdout) == (0, "lamp 1: brings a program, so it stays as it is\n"), done.stderr


def test_the_role_knows_the_same_forms():
    role = SERVICE.parent / "roles/bedplate"
    tried = yaml.safe_load((role / "defaults/main.yml").read_text())["bedplate_optimize_forms"]
    options = yaml.safe_load((role / "meta/argument_specs.yml").read_text())["argument_specs"]["main"]["options"]

    assert ["float32", *tried] == [one.name for one in CANDIDATES]
    assert options["bedplate_optimize_forms"]["choices"] == options["bedplate_optimize_forms"]["default"] == tried


def test_a_form_that_is_none_is_refused(tmp_path):
    done = bedplate(write_lamp(tmp_path / "lamp"), "--forms", "bfloat16,int4")

    assert done.returncode != 0
    assert "--forms: int4 does not do, wanted some of float32, " in done.stderr


def test_what_was_kept_is_what_engines_look_for(run):
    _, shelf, bundle, _ = run

    assert ArtifactStore(shelf, HERE).form_of(bundle) == ModelVariant(channels_last=False)


def test_a_candidate_that_dies_is_refused_and_the_others_are_measured(tmp_path):
    directory = write_known_lamp(tmp_path / "lamp")
    dies = "import json, os, sys; asked = sys.stdin.readline(); os.abort() if 'bfloat16' in asked else 0; "
    works = (
        "print(json.dumps({'accuracy': 1.0, 'items_per_s': 9.0, 'p50_ms': 1.0, 'memory_mb': 1.0, 'start_s': 1.0})); "
    )
    numbers = "import numpy; numpy.save(json.loads(asked)['answers'], numpy.ones(2))"
    options = dataclasses.replace(TERMS, worker=(sys.executable, "-c", dies + works + numbers))
    bundle = read_bundle(directory)

    figures, package = optimize(bundle, directory, options, tmp_path, lambda text: None, candidates_for(bundle)[:2])

    assert [one.refused.partition(" (")[0] for one in figures] == ["", "ended with status -6"]
    assert package is None


def test_a_form_that_is_not_finite_where_float32_is_does_not_do(tmp_path):
    directory = write_known_lamp(tmp_path / "lamp")
    answers = "import json, sys, numpy; asked = json.loads(sys.stdin.readline()); "
    saved = "numpy.save(asked['answers'], [1, numpy.nan if asked['precision'] == 'bfloat16' else 1]); "
    works = "print(json.dumps({'accuracy': 1.0, 'items_per_s': 9.0, 'p50_ms': 1.0, 'memory_mb': 1.0, 'start_s': 1.0}))"
    options = dataclasses.replace(TERMS, worker=(sys.executable, "-c", answers + saved + works))
    bundle = read_bundle(directory)

    figures, _ = optimize(bundle, directory, options, tmp_path, lambda text: None, candidates_for(bundle)[:2])

    assert [one.refused for one in figures] == ["", "answers NaN or infinity elsewhere than float32"]


def test_what_takes_too_long_is_refused(tmp_path):
    directory = write_known_lamp(tmp_path / "lamp")
    options = dataclasses.replace(TERMS, limit_s=0.2, worker=(sys.executable, "-c", "import time; time.sleep(60)"))

    with pytest.raises(Exception, match=r"took longer than 0.2 s to measure"):
        optimize(read_bundle(directory), directory, options, tmp_path, lambda text: None)


PLAIN = Figures("float32", accuracy=0.98, items_per_s=100, p50_ms=10)


def figures(name="other", **changes):
    return dataclasses.replace(PLAIN, name=name, **changes)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, ""),
        ({"accuracy": 0.975}, ""),
        ({"accuracy": 0.974}, "loses 0.60 points"),
        ({"accuracy": 0.99}, ""),
        ({"p50_ms": 10.9}, ""),
        ({"p50_ms": 11.5}, "later than float32"),
        ({"difference": 0.2}, ""),
        ({"difference": 0.985}, "differ from float32's by 98%, 25% are allowed"),
        ({"accuracy": None, "difference": 1e-6}, ""),
        ({"accuracy": None, "difference": 0.01}, "no validation set"),
    ],
    ids=str,
)
def test_a_form_does_where_it_loses_little(changes, said):
    found = verdict(figures(**changes), PLAIN, threshold=0.97, loss_points=0.5)

    assert said in found
    assert bool(said) == bool(found)


def test_a_form_below_the_bundles_threshold_does_not_do():
    assert "below the threshold" in verdict(figures(accuracy=0.977), PLAIN, threshold=0.978, loss_points=0.5)


@pytest.mark.parametrize(
    ("others", "best"),
    [
        ([], "float32"),
        ([figures(items_per_s=105)], "float32"),
        ([figures(items_per_s=200)], "other"),
        ([figures(items_per_s=200, refused="loses")], "float32"),
        (
            [figures(items_per_s=200, p50_ms=9), dataclasses.replace(PLAIN, name="sooner", items_per_s=198, p50_ms=5)],
            "sooner",
        ),
    ],
    ids=str,
)
def test_the_best_form_is_clearly_faster(others, best):
    assert best_of([PLAIN, *others]).name == best


def test_pictures_lie_otherwise_only_where_something_convolves(tmp_path):
    bundle = read_bundle(write_lamp(tmp_path / "lamp"))

    assert not any(one.channels_last for one in candidates_for(bundle))
    assert len({one.name for one in CANDIDATES}) == len(CANDIDATES)


def test_dimensions_that_vary_are_free(tmp_path):
    bundle = read_bundle(write_lamp(tmp_path / "lamp"))
    sound = dataclasses.replace(bundle.input, shape=(1, Range(4, 9)))

    example, free = export_arguments(dataclasses.replace(bundle, input=sound))

    assert tuple(example.shape) == (bundle.max_items, 1, 9)
    assert sorted(free) == [0, 2]


def test_onnx_is_what_torch_computes(tmp_path):
    directory = write_known_lamp(tmp_path / "lamp")

    said = export(read_bundle(directory), directory, tmp_path / "lamp.onnx")

    assert "onnxruntime computes what torch does" in said
