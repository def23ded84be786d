"""The command as an operator or a playbook runs it."""

import asyncio
import json
import sys
from pathlib import Path

import pytest

from tests.load.conftest import Server, answering, read_request
from tools.load.ledger import percentile
from tools.load.plan import constant_arrivals, poisson_arrivals

ROOT = Path(__file__).parents[2]
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
GONE = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"


async def load_command(*arguments, env=None):
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tools.load", *map(str, arguments),
        cwd=ROOT, env=env, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


def against(handler, *arguments, env=None):
    async def scenario():
        async with Server(handler) as server:
            return await load_command("--url", server.url, "--connect-to", "127.0.0.1", *arguments, env=env)

    return asyncio.run(scenario())


def test_bodies_go_out_in_turn_with_their_types_and_the_headers_from_file_and_environment(tmp_path):
    (tmp_path / "a.png").write_bytes(b"picture")
    (tmp_path / "b.raw").write_bytes(b"tensor")
    (tmp_path / "headers").write_text("Authorization: Bearer from-file\n")
    received = []

    async def keep(reader, writer):
        while True:
            received.append(await read_request(reader))
            writer.write(OK)

    code, out, err = against(
        keep, "--rate", 50, "--seconds", 0.08, "--max-connections", 1, "--ledger", tmp_path / "ledger",
        "--header-file", tmp_path / "headers", "--header-env", "EXTRA",
        tmp_path / "a.png", tmp_path / "b.raw", env={"EXTRA": "X-Extra: from-env"},
    )  # fmt: skip

    assert (code, err) == (0, "")
    assert [body for _, body in received] == [b"picture", b"tensor"] * 2
    assert [b"image/png" in head for head, _ in received] == [True, False] * 2
    assert [b"application/octet-stream" in head for head, _ in received] == [False, True] * 2
    assert all(b"Authorization: Bearer from-file" in head and b"X-Extra: from-env" in head for head, _ in received)
    ledger = [json.loads(line) for line in (tmp_path / "ledger").read_text().splitlines()]
    assert [(line["id"], line["body"], line["status"]) for line in ledger] == [
        (0, 0, 200),
        (1, 1, 200),
        (2, 0, 200),
        (3, 1, 200),
    ]
    assert json.loads(out)["sent"] == 4


@pytest.mark.parametrize(("allowed", "code"), [(5, 0), (4, 1)])
def test_exit_code_says_whether_more_failed_than_allowed(allowed, code):
    returned, out, _ = against(answering(GONE), "--rate", 50, "--seconds", 0.1, "--max-failed", allowed)

    assert json.loads(out)["failed"] == 5
    assert returned == code


def test_a_header_without_a_name_is_refused_and_not_repeated(tmp_path):
    (tmp_path / "headers").write_text("s3cret\n")

    code, out, err = against(answering(OK), "--rate", 1, "--seconds", 1, "--header-file", tmp_path / "headers")

    assert (code, out) == (2, "")
    assert "Name: value" in err
    assert "s3cret" not in err


def test_an_expectation_for_a_body_that_is_not_sent_is_refused(tmp_path):
    (tmp_path / "expect").write_text('{"3": {"label": "7"}}')

    code, _, err = against(answering(OK), "--rate", 1, "--seconds", 1, "--expect", tmp_path / "expect")

    assert code == 2
    assert "[3]" in err


def test_poisson_arrivals_are_the_same_for_the_same_seed_and_keep_the_rate():
    arrivals = poisson_arrivals(100, 50, seed=1)

    assert arrivals == poisson_arrivals(100, 50, seed=1) != poisson_arrivals(100, 50, seed=2)
    assert len(arrivals) == pytest.approx(5000, rel=0.06)
    assert arrivals == sorted(arrivals)
    assert arrivals[-1] < 50


def test_constant_arrivals_are_evenly_spaced():
    assert constant_arrivals(4, 1) == [0, 0.25, 0.5, 0.75]


@pytest.mark.parametrize(("share", "value"), [(0.5, 5), (0.9, 9), (0.99, 10), (1.0, 10)])
def test_percentile_is_a_value_that_was_seen(share, value):
    assert percentile(range(1, 11), share) == value
