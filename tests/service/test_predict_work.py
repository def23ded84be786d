"""`bedplate predict --output` against the whole service: thousands of items as one piece of work."""

import contextlib
import http.server
import json
import threading

import pytest
from bedplate.commands.predict_output import _parts

from tests.service.lamp import png_of
from tests.service.test_predict_command import predict

BRIGHT, DARK = [[[1, 1], [1, 1]]], [[[-1, -1], [-1, -1]]]
ITEMS = 100  # the lamp takes 8 of them at once


@pytest.fixture
def lines(tmp_path):
    """Bright and dark in turn, but for the item in row 50, which is none."""
    items = [BRIGHT if row % 2 else DARK for row in range(1, ITEMS + 1)]
    items[49] = [[[1]]]
    (tmp_path / "lamps.jsonl").write_text("".join(f"{json.dumps(item)}\n" for item in items))
    return tmp_path / "lamps.jsonl"


def answers_in(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def labels_in(path):
    """By row; of what was refused None."""
    return {line["row"]: line["prediction"]["label"] if "prediction" in line else None for line in answers_in(path)}


EXPECTED = {row: None if row == 50 else "bright" if row % 2 else "dark" for row in range(1, ITEMS + 1)}


def test_each_item_gets_a_line_and_one_that_is_refused_fails_alone(service, lines, tmp_path):
    output = tmp_path / "answers.jsonl"

    done = predict(service.url, lines, "--output", output)

    assert done.returncode == 1
    assert labels_in(output) == EXPECTED
    assert [line["row"] for line in answers_in(output)] == list(range(1, ITEMS + 1))
    assert "422: inputs have shape" in answers_in(output)[49]["error"]
    assert answers_in(output)[0] | {"prediction": {}} == {
        "file": str(lines),
        "model": "lamp",
        "version": "1",
        "row": 1,
        "prediction": {},
    }
    assert "100 items asked in" in done.stderr
    assert "0 were there already, 1 of all were refused" in done.stderr


def test_it_goes_on_where_it_was_cut_off(service, lines, tmp_path):
    output = tmp_path / "answers.jsonl"
    predict(service.url, lines, "--output", output)
    whole = output.read_text()
    first_30 = "".join(whole.splitlines(keepends=True)[:30])
    output.write_text(first_30 + whole.splitlines()[30][:25])  # as if killed in the middle of a line

    done = predict(service.url, lines, "--output", output, "--items", "7")

    assert "70 items asked in" in done.stderr
    assert "30 were there already" in done.stderr
    assert output.read_text().startswith(first_30)
    assert labels_in(output) == EXPECTED


def test_what_is_done_is_not_asked_again(service, lines, tmp_path):
    output = tmp_path / "answers.jsonl"
    predict(service.url, lines, "--output", output)

    done = predict(service.url, lines, "--output", output)

    assert done.returncode == 1
    assert "0 items asked in" in done.stderr
    assert len(answers_in(output)) == ITEMS


def test_pictures_are_an_item_each(service, tmp_path):
    for name, level in (("bright", 255), ("dark", 0)):
        (tmp_path / f"{name}.png").write_bytes(png_of([[level] * 2] * 2))
    output = tmp_path / "answers.jsonl"

    done = predict(service.url, tmp_path / "bright.png", tmp_path / "dark.png", "--output", output)

    assert done.returncode == 0, done.stderr
    found = [(line["row"], line["predictions"][0]["label"]) for line in answers_in(output)]
    assert found == [(0, "bright"), (0, "dark")]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--model", "nobody"], "404: "),
        (["--model", "lamp", "--version", "9"], "404: "),
    ],
)
def test_what_is_wrong_with_all_of_it_is_no_answer_to_any(service, lines, tmp_path, arguments, told):
    output = tmp_path / "answers.jsonl"

    done = predict(service.url, lines, "--output", output, *arguments)

    assert done.returncode == 2
    assert told in done.stderr
    assert "Run it again to go on" in done.stderr
    assert output.read_text() == ""


def test_a_file_of_another_kind_is_not_written_to(service, lines, tmp_path):
    output = tmp_path / "notes.txt"
    output.write_text("my notes\n")

    done = predict(service.url, lines, "--output", output)

    assert done.returncode == 2
    assert "name another --output" in done.stderr
    assert output.read_text() == "my notes\n"


def test_a_table_without_a_first_line_is_told(service, tmp_path):
    (tmp_path / "empty.csv").write_text("")

    done = predict(service.url, tmp_path / "empty.csv", "--output", tmp_path / "answers.jsonl")

    assert done.returncode == 2
    assert "its first line has to name the columns" in done.stderr


class _Dying(http.server.BaseHTTPRequestHandler):
    """Answers three requests, and then no more."""

    asked = 0

    def do_POST(self):
        inputs = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["inputs"]
        type(self).asked += 1
        if self.asked > 3:
            self.send_response(500)
            self.end_headers()
            return
        assert self.headers["X-Request-Priority"] == "batch"
        answer = {"model": "lamp", "version": "1", "predictions": [{"label": "bright"} for _ in inputs]}
        content = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments):
        pass


class _Ending(_Dying):
    """Loses its engines over an item that is none."""

    asked = 0

    def do_POST(self):
        inputs = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["inputs"]
        type(self).asked += 1
        document = {"model": "lamp", "version": "1", "predictions": [{"label": "bright"} for _ in inputs]}
        if [[[1]]] in inputs:
            document = {"type": "urn:bedplate:problem:engine-lost", "detail": "2 engines ended", "next_step": "do not"}
        content = json.dumps(document).encode()
        self.send_response(500 if "type" in document else 200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@contextlib.contextmanager
def answering(handler):
    """The address of a server that answers so."""
    server = http.server.HTTPServer(("127.0.0.1", 0), handler)
    serving = threading.Thread(target=server.serve_forever)
    serving.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        serving.join()
        server.server_close()


def test_a_server_that_fails_on_the_way_leaves_what_was_answered(lines, tmp_path):
    output = tmp_path / "answers.jsonl"
    with answering(_Dying) as url:
        done = predict(url, lines, "--model", "lamp", "--output", output, "--items", "10", "--parallel", "1")

    assert done.returncode == 2
    assert "500: " in done.stderr
    assert list(labels_in(output)) == list(range(1, 31))


def test_a_request_that_ended_engines_is_not_sent_again_in_any_form(lines, tmp_path):
    output = tmp_path / "answers.jsonl"
    with answering(_Ending) as url:
        done = [predict(url, lines, "--model", "lamp", "--output", output, "--items", "10") for _ in range(2)]

    assert [each.returncode for each in done] == [1, 1]
    assert _Ending.asked == 10  # in the first run; none in the second
    assert [row for row, label in labels_in(output).items() if label is None] == list(range(41, 51))
    assert "one of the 10 items from row 41 to 50: 500: 2 engines ended; do not" in answers_in(output)[40]["error"]


@pytest.mark.parametrize("name", ["rows.csv", "ROWS.CSV", "rows.JSONL"])
def test_a_table_is_one_whatever_the_case_of_its_name(tmp_path, name):
    file = tmp_path / name
    file.write_text("power\n1\n2\n3\n" if "csv" in name.lower() else '{"power": 1}\n{"power": 2}\n{"power": 3}\n')

    assert [list(part.rows) for part in _parts([file], set(), 2)] == [[1, 2], [3]]
