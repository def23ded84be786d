"""What the ledger says when a real server misbehaves."""

import asyncio
import hashlib
import ssl
import struct
from dataclasses import replace
from itertools import takewhile
from socket import SO_LINGER, SOL_SOCKET

import pytest

from tests.load.conftest import Server, answering, read_request
from tools.load.http1 import request_bytes
from tools.load.ledger import summarise
from tools.load.plan import Expected, Plan, constant_arrivals, read_target
from tools.load.run import run

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def plan_for(url, rate=100.0, seconds=0.2, ca=None, bodies=(b"x",), **options):
    return Plan(
        target=read_target(url, ca, connect_to="127.0.0.1"),
        requests=[request_bytes("POST", "/predict", {"Host": "localhost"}, body) for body in bodies],
        arrivals=constant_arrivals(rate, seconds),
        expected=options.pop("expected", {}),
        **options,
    )


def load(handler, tls=None, **options):
    async def scenario():
        async with Server(handler, tls) as server:
            return await run(plan_for(server.url, **options)), server

    return asyncio.run(scenario())


def test_every_request_of_the_schedule_is_answered_on_one_kept_connection():
    records, server = load(answering(OK), rate=50, max_connections=1)

    assert [record.id for record in records] == list(range(10))
    assert all(record.status == 200 and record.sha256 == hashlib.sha256(b"ok").hexdigest() for record in records)
    assert [record.reused for record in records] == [False] + [True] * 9
    assert server.connections == 1


def test_a_schedule_may_end_early():
    sent = []

    async def scenario():
        async with Server(answering(OK)) as server:
            arrivals = takewhile(lambda _: len(sent) < 3, constant_arrivals(100, 60))
            return await run(replace(plan_for(server.url), arrivals=arrivals), sent.append)

    records = asyncio.run(scenario())

    assert records == sent
    assert 3 <= len(records) < 1000


def test_reset_is_recorded_as_reset():
    async def reset(reader, writer):
        await read_request(reader)
        writer.get_extra_info("socket").setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))

    records, _ = load(reset)

    assert {record.error for record in records} == {"reset"}
    assert summarise(records)["failed"] == 20


def test_answer_cut_in_the_middle_is_recorded_as_closed():
    async def half(reader, writer):
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")

    records, _ = load(half)

    assert {(record.status, record.error) for record in records} == {(None, "closed")}


def test_garbage_is_recorded_as_malformed():
    records, _ = load(answering(b"SMTP ready\r\n\r\n"))

    assert {record.error for record in records} == {"malformed"}


def test_stall_ends_at_the_timeout_and_stops_nobody_else():
    async def stall_first(reader, writer, seen=[]):  # noqa: B006 - one list for all connections is the point
        while True:
            await read_request(reader)
            seen.append(1)
            if len(seen) == 1:
                await reader.read()
            writer.write(OK)

    records, _ = load(stall_first, timeout_s=0.5)

    stalled, *rest = sorted(records, key=lambda record: record.id)
    assert (stalled.error, stalled.done - stalled.sent) == ("timeout", pytest.approx(0.5, abs=0.2))
    assert all(record.status == 200 and record.latency_s < 0.4 for record in rest)


def test_refusal_by_status_is_answered_but_failed_and_keeps_retry_after():
    records, _ = load(answering(b"HTTP/1.1 503 Gone\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n"))

    summary = summarise(records)
    assert {record.retry_after for record in records} == {"7"}
    assert (summary["answered"], summary["failed"], summary["statuses"]) == (20, 20, {"503": 20})
    assert summary["latency_ms"]["p50"] is None


def test_chunked_answers_are_joined_and_the_connection_kept():
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"

    records, server = load(answering(chunked), rate=50, max_connections=1)

    assert {record.sha256 for record in records} == {hashlib.sha256(b"hello").hexdigest()}
    assert server.connections == 1


def test_outage_of_a_second_fails_what_was_due_in_it_and_no_more():
    async def scenario():
        async with Server(answering(OK)) as before:
            port = before.port
        load_task = asyncio.create_task(run(plan_for(f"http://localhost:{port}/predict", rate=100, seconds=2)))
        await asyncio.sleep(1)
        async with Server(answering(OK), port=port):
            return await load_task

    records = asyncio.run(scenario())

    summary = summarise(records)
    assert summary["errors"] == {"refused": pytest.approx(100, abs=15)}
    assert summary["statuses"] == {"200": pytest.approx(100, abs=15)}
    assert all((record.intended < 1.1) == (record.error == "refused") for record in records if record.intended < 0.9)


def test_slow_server_is_charged_for_the_wait_of_requests_behind_it():
    async def slow(reader, writer):
        while True:
            await read_request(reader)
            await asyncio.sleep(0.05)
            writer.write(OK)

    # One connection, 20 answers a second, 100 asked for: the last of 20 is due at 0.19 s and answered at 1 s.
    records, _ = load(slow, max_connections=1)

    last = max(records, key=lambda record: record.id)
    assert last.status == 200
    assert last.latency_s > 0.7
    assert last.done - last.sent < 0.3
    assert summarise(records)["sent_late"] >= 15


def test_wrong_body_is_failed_by_hash_and_by_label():
    right = b'{"predictions": [{"label": "7", "score": 0.9}, {"label": "1", "score": 0.1}]}'
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(right), right)
    expected = {
        0: Expected(label="7"),
        1: Expected(label="1"),
        2: Expected(sha256=hashlib.sha256(right).hexdigest()),
        3: Expected(sha256="0" * 64),
    }

    records, _ = load(answering(answer), bodies=[b"a", b"b", b"c", b"d"], expected=expected)

    assert {(record.body, record.error) for record in records} == {
        (0, None),
        (1, "wrong-body"),
        (2, None),
        (3, "wrong-body"),
    }


def test_success_that_the_plan_calls_wrong_is_failed_and_a_refusal_is_not_asked_about():
    asked = []

    def is_right(number, body):
        asked.append(body)
        return number % 2 == 0

    records, _ = load(answering(OK), is_right=is_right)
    load(answering(b"HTTP/1.1 503 Gone\r\nContent-Length: 4\r\n\r\nbusy"), is_right=is_right)

    assert {(record.id % 2, record.error) for record in records} == {(0, None), (1, "wrong-body")}
    assert asked == [b"ok"] * 20


def test_tls_server_with_a_known_authority_answers(certificate):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*certificate)

    records, _ = load(answering(OK), tls=context, ca=certificate[0])

    assert {record.status for record in records} == {200}


def test_tls_server_with_an_unknown_authority_is_recorded_as_tls(certificate):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*certificate)

    records, _ = load(answering(OK), tls=context)

    assert {record.error for record in records} == {"tls"}


def test_connection_that_the_server_will_close_is_not_used_again():
    async def announce_but_wait(reader, writer):
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok")
        await reader.read()

    records, server = load(announce_but_wait)

    assert {(record.status, record.reused) for record in records} == {(200, False)}
    assert server.connections == 20
