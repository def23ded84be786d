"""How runs of several servers become figures, tables and lines of plots."""

import json
import math

import numpy as np
import pytest

from benchmarks.peers import catalogue, goodput, results, table, wrk
from benchmarks.peers.cases import MODELS, Case, Dialect, binary_head
from benchmarks.peers.figures import Spread, in_classes, merged, percentile, spread
from benchmarks.peers.plots import series
from benchmarks.peers.processes import Process, read_stat, tree_of
from benchmarks.peers.results import Measured, Offered

JSON = Dialect({}, protocol=False)
PROTOCOL = Dialect({}, protocol=True)


def run(label="mosec", model="tiny", clients=1, per_s=100.0, turn=0, latencies=None, cpu_ms=0.5, pss_mb=200.0):
    histogram = latencies if latencies is not None else {1000: 98, 9000: 2}
    return Measured(label, label, "2 workers", model, turn, clients, per_s, cpu_ms, pss_mb, histogram)


def level(label="mosec", share=1.0, good=90.0):
    return Offered(label, label, "transformer", 200.0, share, 200.0 * share, good, 40.0, {"200": 10}, 0)


def test_spread_is_of_the_middle_round():
    assert spread([30.0, 10.0, 20.0]) == Spread(20.0, 10.0, 30.0)


@pytest.mark.parametrize(("share", "wanted"), [(0.0, 1), (0.5, 1), (0.51, 2), (0.9, 2), (0.91, 70), (1.0, 70)])
def test_percentile_is_the_smallest_value_that_the_share_does_not_exceed(share, wanted):
    assert percentile({1: 50, 2: 40, 70: 10}, share) == wanted


def test_percentile_of_nothing_is_no_number():
    assert math.isnan(percentile({}, 0.5))


def test_classes_keep_every_request_and_move_none_by_more_than_a_hundredth():
    exact = {value: value % 7 + 1 for value in range(1, 50_000, 13)}

    kept = in_classes(exact)

    assert sum(kept.values()) == sum(exact.values())
    assert len(kept) < 1200
    for share in (0.01, 0.5, 0.99, 1.0):
        assert percentile(kept, share) == pytest.approx(percentile(exact, share), rel=0.011, abs=1)


def test_rounds_are_merged_before_a_percentile_is_read():
    assert merged([{1: 2, 5: 1}, {5: 3}]) == {1: 2, 5: 4}


def test_load_is_read_from_what_the_script_prints():
    result = wrk.parse(["Running 8s test", "RESULT 800 8000000 160000 0 0 0 0 0", "LATENCY 900:500 2000:300"])

    assert (result.per_s, result.bytes, result.latencies_us) == (100.0, 160_000, {900: 500, 2000: 300})


@pytest.mark.parametrize(
    "told",
    [
        "RESULT 800 8000000 160000 0 0 0 3 0",
        "RESULT 800 8000000 160000 0 0 0 0 1",
        "RESULT 800 8000000 160000 1 0 0 0 0",
        "RESULT 0 8000000 0 0 0 0 0 0",
        "nothing",
    ],
)
def test_load_with_a_failed_request_has_no_figures(told):
    with pytest.raises(wrk.LoadFailed):
        wrk.parse([told, "LATENCY 900:1"])


def test_table_has_medians_spread_and_the_busy_latencies():
    runs = [run(per_s=per_s, turn=turn, clients=64) for turn, per_s in enumerate((900.0, 1100.0, 1000.0))]

    text = table.markdown([*runs, run(per_s=80.25)], [level()], {"cores": "2"}, ["ray: no  answer\n"], "3 rounds.")

    assert "| mosec | 80.2 | 1,000 ± 100 | 1 / 9 | 1 / 9 | 0.5 | 200 |" in text
    assert "| cores | 2 |" in text
    assert "- mosec: 2 workers" in text
    assert "- ray: no answer" in text
    assert "| mosec | 200 | 90 |" in text


def test_server_that_was_not_measured_with_so_many_clients_has_a_dash():
    text = table.markdown([run(), run("ours", clients=64), run("ours")], [], {}, [], "")

    assert "| mosec | 100 | - |" in text


def test_results_are_read_back_by_the_plots(tmp_path):
    runs = [run(turn=turn, clients=clients, per_s=100.0 * clients + turn) for turn in (0, 1) for clients in (1, 64)]
    results.write(tmp_path / "results.json", runs, [level(share=2.0), level(share=0.5)], {"cores": "2"}, [], "how")

    document = json.loads((tmp_path / "results.json").read_text())
    [rates] = series.throughput(document["measured"], "tiny")
    [took] = series.latencies(document["measured"], "tiny", 64)
    [good] = series.goodput(document["offered"])

    assert (rates.x, rates.y, rates.low, rates.high) == ([1, 64], [100.5, 6400.5], [100, 6400], [101, 6401])
    assert took.y[took.x.index(0.5)] == 1.0
    assert took.y[-1] == 9.0
    assert good.x == [100.0, 400.0]
    assert series.throughput(document["measured"], "cnn") == []


def test_open_loop_is_for_ours_and_the_best_peers():
    peers = [catalogue.peer(name) for name in ("ray", "bedplate", "fastapi", "mosec")]
    rates = {"ray": 10.0, "bedplate": 50.0, "fastapi": 30.0, "mosec": 40.0}
    runs = []
    for peer in peers:
        [setup] = peer.setups["transformer"]
        runs.append(run(peer.label(setup), "transformer", 16, rates[peer.name]))

    chosen = goodput.chosen(peers, runs, 2)

    assert [(peer.name, capacity) for peer, _, capacity in chosen] == [
        ("bedplate", 50.0),
        ("mosec", 40.0),
        ("fastapi", 30.0),
    ]


def test_processor_time_holds_the_children_that_were_waited_for():
    line = "42 (a) name) S 7 42 42 0 -1 0 0 0 0 0 100 20 3 1 20 0 1 0 5 0 0"

    assert read_stat(line) == Process(42, 7, 42, 1.24)


def test_tree_has_descendants_and_daemons_of_the_session_but_no_strangers():
    listed = [(1, 0, 1), (50, 1, 50), (51, 50, 50), (52, 51, 52), (53, 1, 50), (60, 1, 60)]
    table_of = {pid: Process(pid, parent, session, 1.0) for pid, parent, session in listed}

    assert [process.pid for process in tree_of([50], table_of)] == [50, 51, 52, 53]


@pytest.fixture
def case_of():
    def build(name):
        model = MODELS[name]
        random = np.random.default_rng(seed=0)
        inputs = random.normal(size=(2, *model.shape)).round(4).astype(np.float32)
        expected = random.normal(size=(2, model.outputs)).astype(np.float32)
        return Case(model, inputs, expected, 0)

    return build


def test_json_body_carries_exactly_the_numbers_that_torch_gets(case_of):
    case = case_of("tiny")

    document = json.loads(case.body(1, JSON))

    assert document["inputs"][0]["shape"] == [1, 64]
    assert np.array_equal(np.array(document["inputs"][0]["data"], np.float32), case.inputs[1])
    assert case.body(1, JSON) == case.body(1, PROTOCOL)


def test_binary_body_has_the_protocols_head_only_for_servers_that_speak_it(case_of):
    case = case_of("transformer")
    raw = case.inputs[0].tobytes()

    body, headers = case.body(0, PROTOCOL), case.headers(PROTOCOL)

    assert case.body(0, JSON) == raw
    assert "Inference-Header-Content-Length" not in case.headers(JSON)
    assert body[int(headers["Inference-Header-Content-Length"]) :] == raw
    assert json.loads(binary_head(case.model, len(raw)))["inputs"][0]["parameters"] == {"binary_data_size": len(raw)}


def test_answer_of_another_input_or_shape_is_wrong(case_of):
    case = case_of("tiny")

    assert case.is_right(0, case.expected[0])
    assert not case.is_right(0, case.expected[1])
    assert not case.is_right(0, case.expected[0][:9])
    assert not case.is_right(0, np.full(10, np.nan, np.float32))


def test_configuration_for_one_client_is_left_to_it_where_time_is_short():
    batching, single = catalogue.peer("mosec").setups["tiny"]
    [only] = catalogue.peer("mosec").setups["cnn"]

    assert (batching.counts((1, 64), briefly=True), single.counts((1, 64), briefly=True)) == ([64], [1])
    assert single.counts((1, 64), briefly=False) == only.counts((1, 64), briefly=True) == [1, 64]


def test_every_peer_says_how_it_is_set_up_for_every_model():
    for name in catalogue.NAMES:
        peer = catalogue.peer(name)
        assert set(peer.setups) == set(MODELS)
        assert all(setup.says for setups in peer.setups.values() for setup in setups)
