"""`bedplate engines` shares a host's cores out as a measurement says."""

import os
import re

import numpy as np
import pytest
import torch
from bedplate.bundle.bundle import read_bundle
from bedplate.commands.cli import main
from bedplate.commands.engines import Split, SplitFigures, best_of, splits_of
from bedplate.engine import trial
from bedplate.engine.model import Model

from tests.service.engine_tools import write_lamp
from tests.service.lamp import VARYING


@pytest.mark.parametrize(
    ("cores", "splits"),
    [
        (1, [(1, 1)]),
        (2, [(1, 2), (2, 1)]),
        (6, [(1, 6), (2, 3), (3, 2), (6, 1)]),
        (7, [(1, 7), (7, 1)]),
    ],
)
def test_every_split_uses_every_core(cores, splits):
    assert splits_of(cores) == [Split(*split) for split in splits]


@pytest.mark.parametrize(
    ("full_items_per_s", "p50_ms", "best"),
    [
        ((100, 120), (1, 9), Split(2, 1)),
        ((120, 100), (9, 1), Split(1, 2)),
        ((100, 101), (1, 9), Split(1, 2)),
        ((101, 100), (9, 1), Split(2, 1)),
    ],
)
def test_most_items_under_load_win_and_among_alike_the_soonest_answer(full_items_per_s, p50_ms, best):
    splits = (Split(1, 2), Split(2, 1))
    medians = {
        split: SplitFigures(requests_per_s=1, full_items_per_s=items, p50_ms=ms)
        for split, items, ms in zip(splits, full_items_per_s, p50_ms, strict=True)
    }

    assert best_of(medians) == best


def test_a_table_and_the_lines_for_the_inventory_are_printed(tmp_path, capfd):
    bundle = write_lamp(tmp_path / "lamp")
    cores = len(os.sched_getaffinity(0))

    status = main(["engines", str(bundle), "--rounds", "1", "--seconds", "0.05", "--cores", str(min(2, cores))])

    printed = capfd.readouterr().out
    rows = [line.split() for line in printed.splitlines() if re.match(r" +\d", line)]
    assert status == 0
    assert [(int(row[0]), int(row[1])) for row in rows] == ([(1, 2), (2, 1)] if cores > 1 else [(1, 1)])
    assert all(float(figure) > 0 for row in rows for figure in row[2:])
    assert re.search(r"^bedplate_engines: \[cpu0(, cpu1)?\]\nbedplate_engine_threads: [12]$", printed, re.MULTILINE)


@pytest.mark.parametrize("cores", ["0", "-1", "4097"])
def test_cores_that_are_not_there_are_refused(tmp_path, capsys, cores):
    status = main(["engines", str(write_lamp(tmp_path / "lamp")), "--cores", cores])

    assert status == 2
    assert f"--cores: {cores} does not do, wanted a number from 1 to " in capsys.readouterr().err


@pytest.mark.parametrize("effort", [["--rounds", "0"], ["--seconds", "0"], ["--seconds", "nan"]])
def test_a_trial_of_nothing_is_refused(tmp_path, capsys, effort):
    status = main(["engines", str(write_lamp(tmp_path / "lamp")), *effort])

    assert status == 2
    assert "does not do, wanted at least 1, and more than 0" in capsys.readouterr().err


def test_a_directory_that_is_no_bundle_is_refused(tmp_path, capsys):
    assert main(["engines", str(tmp_path)]) == 2
    assert "SHA256SUMS: is missing" in capsys.readouterr().err


def test_an_engine_that_ends_by_itself_ends_the_trial(tmp_path, capfd):
    bundle = write_lamp(tmp_path / "lamp", network=["unheard-of"])

    status = main(["engines", str(bundle), "--cores", "1"])

    errors = capfd.readouterr().err
    assert status == 2
    assert "'unheard-of' does not do" in errors
    assert "an engine of the trial ended by itself" in errors


class Counted(Model):
    def __init__(self, *args):
        super().__init__(*args)
        self.shapes = []

    def run(self, items):
        self.shapes.append(items.shape)
        return super().run(items)


@pytest.mark.parametrize(("full", "shape"), [(False, (1, 1, 8, 6)), (True, (2, 1, 8, 6))])
def test_models_are_asked_in_turn_for_what_costs_most(tmp_path, full, shape):
    weights = {"1.weight": torch.zeros(2, 48), "1.bias": torch.zeros(2)}
    network = ["flatten", {"linear": {"in_features": 48, "out_features": 2}}]
    directory = write_lamp(tmp_path / "lamp", weights, **{**VARYING, "network": network})
    models = [Counted.load(read_bundle(directory), directory, torch.device("cpu")) for _ in range(2)]

    figures = trial.measure(models, full=full, begin_s=0, seconds=0.01)

    assert {*models[0].shapes, *models[1].shapes} == {shape}
    assert len(models[0].shapes) == len(models[1].shapes)
    assert np.isfinite([*figures.values()]).all()
