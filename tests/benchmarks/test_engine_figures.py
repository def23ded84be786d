"""How records of a load become figures, and figures a verdict."""

import json

import pytest

from benchmarks.engine import report
from benchmarks.engine.bundles import lamp_item, lamp_logits
from benchmarks.engine.killed import too_short
from benchmarks.engine.load import fates, is_good, normal_after_s, version_if_right
from benchmarks.engine.memory import Sample, growth_mb
from benchmarks.engine.promoted import went_back
from benchmarks.engine.report import Row, at_least, at_most, exactly
from tools.load.ledger import Record


def record(number=0, intended=0.0, took=0.1, status=200, error=None, retry_after=None):
    return Record(number, 0, intended, intended, intended + took, status, error, None, 2, retry_after, True)


@pytest.mark.parametrize(
    ("rows", "met"),
    [
        ([at_most("a", 1.0, 2, "s"), at_least("b", 2.0, 2, "s"), exactly("c", 0, 0), Row("told", "x")], True),
        ([at_most("a", 1.0, 2, "s"), at_most("b", 2.1, 2, "s")], False),
        ([at_least("a", 1.9, 2, "s")], False),
        ([exactly("a", 1, 0)], False),
        ([at_most("never came", None, 2, "s")], False),
        ([Row("decides nothing", "x")], False),
    ],
)
def test_bars_are_met_only_if_each_is_and_there_is_one(rows, met):
    assert report.all_met(rows) is met


def test_verdict_is_printed_and_kept(tmp_path, capsys):
    met = report.publish("killed", [exactly("failed", 3, 0)], quick=True, folder=tmp_path)

    kept = json.loads((tmp_path / "engine-killed.json").read_text())
    assert not met
    assert "MISSED" in capsys.readouterr().out
    assert (kept["met"], kept["quick"], kept["rows"][0]["seen"]) == (False, True, "3")


def answer(brightness=0.25, version=3, named=3):
    dark, bright = lamp_logits(lamp_item(brightness), version)[0].tolist()
    prediction = {"label": "bright" if bright > dark else "dark", "scores": {"dark": dark, "bright": bright}}
    return json.dumps({"version": str(named), "predictions": [prediction]}).encode()


@pytest.mark.parametrize(
    ("body", "version"),
    [
        (answer(), 3),
        (answer(version=2), None),  # the numbers are of another version than the one it names
        (answer(brightness=0.5), None),  # of somebody else's item
        (b'{"predictions": []}', None),
        (b"no JSON", None),
    ],
)
def test_answer_is_right_only_if_its_numbers_are_of_this_item_and_of_the_version_it_names(body, version):
    assert version_if_right(body, 0.25) == version


def test_right_answer_that_comes_late_is_not_good():
    assert [is_good(record(took=took)) for took in (0.5, 0.51)] == [True, False]
    assert not is_good(record(error="wrong-body"))


def test_fates_are_counted_by_error_or_else_by_status():
    records = [record(), record(status=503), record(status=None, error="timeout"), record(error="wrong-body")]

    assert fates(records) == "200: 1, 503: 1, timeout: 1, wrong-body: 1"


def test_normal_is_a_whole_second_in_which_all_went_well():
    records = [record(intended=at / 10, status=503 if at in (5, 12, 28) else 200) for at in range(40)]

    assert normal_after_s(records, moment_s=1.0) == 2.0  # 1.0 to 2.0 holds 1.2, and 2.0 to 3.0 holds 2.8


def test_never_normal_again_is_told():
    assert normal_after_s([record(intended=1.0, status=503)], moment_s=0.0) is None


def test_retry_after_is_too_short_where_the_outage_lasted_longer():
    refused = [record(intended=at, status=503, retry_after="2") for at in (1.0, 2.0, 3.0)]
    records = [record(intended=0.5), *refused, record(intended=4.5)]

    # The clients come back at 3.1, 4.1 and 5.1 s, and nobody was answered before 4.5 s.
    assert too_short(refused, records) == 2


def test_older_version_than_one_answered_before_is_counted_and_one_that_overlapped_is_not():
    records = [
        record(0, intended=0.0),
        record(1, intended=1.0),
        record(2, intended=1.05),  # sent before the answer to 1 was complete
        record(3, intended=2.0),
        record(4, intended=3.0),
    ]

    assert went_back(records, {0: 1, 1: 2, 2: 1, 3: 1, 4: 2}) == 1


def test_growth_counts_from_the_first_sample_after_the_warm_up_to_the_largest():
    samples = [Sample(at_s, {"web": size}, {}) for at_s, size in ((0, 10.0), (120, 50.0), (125, 58.0), (130, 55.0))]

    assert growth_mb(samples, "web", warm_s=120) == 8.0


def test_growth_of_a_process_that_went_away_is_unknown():
    samples = [Sample(0, {"web": 10.0}, {}), Sample(5, {}, {})]

    assert growth_mb(samples, "web", warm_s=0) is None
