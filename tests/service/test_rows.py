"""Rows of a table, as JSON and as CSV: what they become, and what is said of those that do not do."""

import json

import numpy as np
import pytest
from bedplate.bundle.bundle import Bundle, BundleError
from bedplate.web.items.rows import items_of_csv, items_of_json

from tests.service.lamp import COLUMNS, ROW, FakeEngines, tabular

COLUMNS_READ = Bundle.from_description(tabular()).input.columns
# (power - 50) / 25, age, three sockets, two kinds
ITEM = [1, 2, 1, 0, 0, 1, 0]


@pytest.fixture
def tables(client_of):
    engines = FakeEngines()
    engines.serve(tabular())
    return client_of(engines), engines


def post(client, body, content_type="application/json"):
    body = json.dumps({"inputs": body}).encode() if content_type == "application/json" else body
    return client.simulate_post("/v1/models/lamp/predict", body=body, headers={"Content-Type": content_type})


def test_rows_of_json_become_scaled_numbers_and_ones_at_their_category(tables):
    client, engines = tables

    answer = post(client, [ROW, {"age": 0.5, "power": None, "kind": "halogen"}])

    assert answer.status_code == 200, answer.text
    assert engines.asked[0].tolist() == [ITEM, [0, 0.5, 0, 1, 0, 0, 1]]
    assert [one["label"] for one in answer.json["predictions"]] == ["bright", "bright"]


@pytest.mark.parametrize(
    "text",
    [
        "power,age,socket,kind\n75,2,E14,LED\n,.5,,halogen\n",
        'kind,age,socket,power\r\n"LED",2,E14, 7.5e1\r\n\r\nhalogen,0.5,,\r\n',
        "\ufeffkind,age,socket,power\nLED,2,E14,75\nhalogen,0.5,E27,50",
    ],
    ids=["plain", "other order, quotes, blanks, line ends", "a spreadsheet's mark"],
)
def test_a_table_becomes_what_the_same_rows_become_as_json(tables, text):
    client, engines = tables

    answer = post(client, text.encode(), "text/csv; charset=utf-8")

    assert answer.status_code == 200, answer.text
    assert engines.asked[0].tolist() == [ITEM, [0, 0.5, 0, 1, 0, 0, 1]]


@pytest.mark.parametrize(
    ("change", "code", "detail"),
    [
        ({"power": 101}, "out-of-range", "row 2, column 'power': 101 is out of range, 0 to 100 W"),
        ({"power": -0.1}, "out-of-range", "row 2, column 'power': -0.1 is out of range, 0 to 100 W"),
        ({"power": 10**400}, "out-of-range", "row 2, column 'power': inf is out of range, 0 to 100 W"),
        ({"power": True}, "wrong-value", "row 2, column 'power': the value is no number, wanted 0 to 100 W"),
        ({"power": "75"}, "wrong-value", "row 2, column 'power': the value is no number, wanted 0 to 100 W"),
        ({"age": None}, "wrong-value", "row 2, column 'age': the value is missing, wanted 0 to 30"),
        ({"kind": None}, "wrong-value", "row 2, column 'kind': the value is missing, wanted LED, halogen"),
        ({"kind": "led"}, "wrong-value", "row 2, column 'kind': the value is none of its categories"),
        ({"kind": ["LED"]}, "wrong-value", "row 2, column 'kind': the value is none of its categories"),
        ({"colour": "red"}, "unknown-field", "row 2 has a column that the model does not know"),
    ],
)
def test_a_row_that_does_not_do_is_told_by_row_and_column(tables, change, code, detail):
    client, engines = tables

    answer = post(client, [ROW, ROW | change])

    assert answer.status_code == 422
    assert answer.json["type"] == f"urn:bedplate:problem:{code}"
    assert detail in answer.json["detail"]
    assert answer.json["limit"]
    assert answer.json["next_step"]
    assert not engines.asked


@pytest.mark.parametrize("inputs", [[], {}, [[1, 2]], [1], "x", None, [ROW, 1]])
def test_what_are_no_rows_is_refused(tables, inputs):
    client, _ = tables

    assert post(client, inputs).status_code == 422


@pytest.mark.parametrize(
    ("text", "status", "code"),
    [
        (b"power,age,socket,kind\n", 400, "empty-body"),
        (b"\n\n", 400, "empty-body"),
        (b"age,kind\n1\n", 400, "malformed-csv"),
        (b"age,kind\n1,LED,3\n", 400, "malformed-csv"),
        (b"age,kind,age\n1,LED,3\n", 400, "malformed-csv"),
        (b'age,kind\n1,"LED\n', 400, "malformed-csv"),
        (b"age,kind\n1,\xff\n", 400, "malformed-csv"),
        (b"age,kind,colour\n1,LED,red\n", 422, "unknown-field"),
        (b"kind\nLED\n", 422, "wrong-value"),
        (b"age,kind\nNaN,LED\n", 422, "wrong-value"),
        (b"age,kind\n1_0,LED\n", 422, "wrong-value"),
        ("age,kind\n\u0661,LED\n".encode(), 422, "wrong-value"),
        (b"age,kind\n1e999,LED\n", 422, "out-of-range"),
        (b"age,kind\n" + 9 * b"1,LED\n", 413, "too-many-items"),
        (b"age,kind\n1," + 9000 * b"L", 413, "body-too-large"),
    ],
)
def test_a_table_that_does_not_do_is_told_why(tables, text, status, code):
    client, engines = tables

    answer = post(client, text, "text/csv")

    assert (answer.status_code, answer.json["type"]) == (status, f"urn:bedplate:problem:{code}")
    assert not engines.asked


def test_a_field_longer_than_csv_takes_is_no_fault_of_ours():
    with pytest.raises(Exception, match="no CSV"):
        items_of_csv(b"age,kind\n1," + b"L" * 200_000, COLUMNS_READ)


def test_models_without_columns_take_no_table(client):
    assert post(client, b"a,b\n1,2\n", "text/csv").status_code == 415


def test_the_list_of_models_tells_what_a_row_needs(tables):
    client, _ = tables

    [model] = client.simulate_get("/v1/models").json["models"]

    assert model["inputs"][0]["columns"] == [
        {"name": "power", "range": [0, 100], "unit": "W", "required": False},
        {"name": "age", "range": [0, 30], "required": True},
        {"name": "socket", "categories": ["E14", "E27", "GU10"], "required": False},
        {"name": "kind", "categories": ["LED", "halogen"], "required": True},
    ]


def test_a_full_request_of_the_longest_values_is_not_too_long(tables):
    client, _ = tables

    longest = {"power": 99.99999999999999, "age": 2.5000000000000004e-300, "socket": "GU10", "kind": "halogen"}
    assert post(client, [longest] * 8).status_code == 200


def test_numbers_of_regression_come_as_they_are(client_of):
    engines = FakeEngines()
    engines.serve(tabular("tabular-regression"))

    answer = post(client_of(engines), [ROW])

    mean = sum(ITEM) / 7
    assert answer.json["predictions"][0]["output"] == pytest.approx([-mean, mean])


def test_items_are_what_the_formula_says():
    values = np.random.default_rng(1).uniform(0, 30, (50, 2))
    rows = [{"power": power, "age": age, "kind": "LED"} for power, age in values.tolist()]

    items = items_of_json(rows, COLUMNS_READ)

    assert items.dtype == np.float32
    assert items[:, 0].tolist() == [np.float32((row["power"] - 50) / 25) for row in rows]


def changed(number, **changes):
    columns = [dict(column) for column in COLUMNS]
    columns[number] |= changes
    return [{"name": "features", "dtype": "float32", "shape": [7], "columns": columns}]


@pytest.mark.parametrize(
    ("inputs", "told"),
    [
        (changed(0, range=[100, 0]), r"columns\[0\].range: \[100.0, 0.0\] does not do, wanted \[lowest, highest\]"),
        (changed(0, missing=101), r"columns\[0\].missing: 101.0 does not do, wanted a number of the range, 0 to 100"),
        (changed(0, std=0), r"columns\[0\].std: 0 does not do"),
        (changed(0, name="age"), r"columns: .* does not do, wanted names that differ"),
        (changed(2, missing="E40"), r"columns\[2\].missing: 'E40' does not do, wanted one of 'categories'"),
        (changed(2, categories=["E14", "E27"]), r"inputs\[0\].shape: \[7\] does not do, wanted \[6\]"),
        (changed(1, colour="red"), r"columns\[1\].colour: unknown key"),
    ],
)
def test_a_bundle_whose_columns_do_not_do_is_refused(inputs, told):
    with pytest.raises(BundleError, match=told):
        Bundle.from_description(tabular(inputs=inputs))
