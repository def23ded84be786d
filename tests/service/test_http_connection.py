"""One client's connection, over a real socket on the loop of production: what goes out for what comes in."""

import asyncio
import contextlib
import re

import pytest
import uvloop
from bedplate.web.http.connection import Connection, Listener

GET = b"GET /%b HTTP/1.1\r\nHost: x\r\n\r\n"


async def echo(scope, receive, send):
    """Says the path and the body back; /slow after a while, /stream in pieces."""
    body, more = b"", True
    while more:
        event = await receive()
        if event["type"] == "http.disconnect":
            return
        body, more = body + event["body"], event["more_body"]
    if scope["path"] == "/slow":
        await asyncio.sleep(0.2)
    if scope["path"] == "/broken":
        raise ValueError("broken")
    pieces = [b"one", b"", b"two"] if scope["path"] == "/stream" else [scope["path"].encode() + b" " + body]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for piece in pieces[:-1]:
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": pieces[-1]})


async def early(scope, receive, send):
    """Does not want the body."""
    await send({"type": "http.response.start", "status": 413, "headers": []})
    await send({"type": "http.response.body", "body": b"too much"})


def listener(app=echo, direct=lambda exchange: False, **options):
    return Listener(app, direct, **{"idle_s": 5, "receive_s": 5, "max_connections": 8, **options})


@contextlib.asynccontextmanager
async def connected(listening):
    loop = asyncio.get_running_loop()
    listening.sweep(loop)
    server = await loop.create_server(lambda: Connection(listening, loop), "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    try:
        yield reader, writer
    finally:
        writer.close()
        server.close()


def run(scenario):
    return uvloop.run(scenario)


def talk(data, listening=None, until_closed=False, then=None):
    """Everything that comes back for `data`, sent in one piece, and for `then`, sent when something came."""

    async def scenario():
        async with connected(listening or listener()) as (reader, writer):
            writer.write(data)
            answer = b""
            if then is not None:
                answer = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
                writer.write(then)
            if until_closed:
                return answer + await asyncio.wait_for(reader.read(), 10)
            with contextlib.suppress(asyncio.TimeoutError):
                while piece := await asyncio.wait_for(reader.read(65536), 0.5):
                    answer += piece
            return answer

    return run(scenario())


def statuses(answer):
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d+) ", answer)]


def test_requests_in_one_piece_are_answered_in_their_order():
    answer = talk(GET % b"slow" + b"POST /b HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi" + GET % b"c")

    assert re.findall(rb"\r\n\r\n(/\w+ (?:hi)?)", answer) == [b"/slow ", b"/b hi", b"/c "]


def test_a_head_in_single_bytes_is_read_as_if_it_came_at_once():
    async def scenario():
        async with connected(listener()) as (reader, writer):
            for byte in b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi":
                writer.write(bytes([byte]))
                await asyncio.sleep(0)
            return await asyncio.wait_for(reader.readuntil(b"/a hi"), 5)

    assert statuses(run(scenario())) == [200]


def test_a_chunked_body_is_put_together_and_its_trailers_are_nobodys():
    body = b"2\r\nhi\r\n1;x=y\r\n!\r\n0\r\nAuthorization: forged\r\n\r\n"
    seen = []

    async def app(scope, receive, send):
        seen.append(dict(scope["headers"]))
        await echo(scope, receive, send)

    answer = talk(
        b"POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + body + GET % b"b", listener(app)
    )

    assert b"/a hi!" in answer
    assert b"/b " in answer
    assert all(b"authorization" not in fields for fields in seen)


def test_an_answer_in_pieces_is_chunked_and_ends_the_connection_only_for_http_1_0():
    assert talk(GET % b"stream").endswith(b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n")
    assert talk(b"GET /stream HTTP/1.0\r\n\r\n", until_closed=True).endswith(b"\r\n\r\nonetwo")


def test_head_gets_the_length_and_no_body():
    answer = talk(b"HEAD /abc HTTP/1.1\r\nHost: x\r\n\r\n")

    assert b"content-length: 5" in answer
    assert answer.endswith(b"\r\n\r\n")


def test_who_expects_100_continue_is_told_before_it_sends():
    head = b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n"

    assert statuses(talk(head, then=b"hi")) == [100, 200]


def test_an_answer_before_the_end_of_the_body_arrives_and_ends_the_connection():
    head = b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 9000000\r\n\r\n"

    answer = talk(head, listener(early), until_closed=True, then=b"x" * 4_000_000)

    assert statuses(answer) == [413]
    assert b"Connection: close" in answer


@pytest.mark.parametrize(
    "request_",
    [b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", b"GET / HTTP/1.0\r\n\r\n"],
)
def test_a_connection_ends_when_its_client_wants_that(request_):
    assert statuses(talk(request_ + GET % b"never", until_closed=True)) == [200]


def test_what_is_no_request_is_refused_after_what_came_before_it():
    answer = talk(GET % b"slow" + b"\x00\x01 nonsense\r\n\r\n" + GET % b"never", until_closed=True)

    assert statuses(answer) == [200, 400]


def test_a_fault_of_the_application_ends_the_connection_and_nothing_else():
    async def scenario():
        listening = listener()
        async with connected(listening) as (reader, writer):
            writer.write(GET % b"broken")
            return await asyncio.wait_for(reader.read(), 5), listening.connections

    assert run(scenario()) == (b"", set())


@pytest.mark.parametrize("sent", [b"GET / HT", b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nab"])
def test_a_request_that_does_not_arrive_in_time_is_refused(sent):
    answer = talk(sent, listener(receive_s=0.5), until_closed=True)

    assert statuses(answer) == [408]


def test_a_connection_that_rests_is_closed_and_one_that_waits_for_its_answer_is_not():
    assert talk(b"", listener(idle_s=0.5), until_closed=True) == b""

    async def patient(scope, receive, send):
        await asyncio.sleep(2.5)
        await echo(scope, receive, send)

    assert statuses(talk(GET % b"a", listener(patient, idle_s=0.5, receive_s=0.5), until_closed=True)) == [200]


def test_a_client_that_leaves_cancels_its_request():
    cancelled = asyncio.Event()

    async def app(scope, receive, send):
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async def scenario():
        async with connected(listener(app)) as (_, writer):
            writer.write(GET % b"a")
            await asyncio.sleep(0.1)
            writer.close()
            await asyncio.wait_for(cancelled.wait(), 5)

    run(scenario())


def test_while_draining_an_answer_says_that_it_is_the_last():
    listening = listener()
    listening.is_draining = True

    assert b"Connection: close" in talk(GET % b"a", listening, until_closed=True)


def test_more_connections_than_allowed_are_told_so():
    async def scenario():
        listening = listener(max_connections=1)
        async with connected(listening) as (reader, writer):
            writer.write(GET % b"a")
            await asyncio.wait_for(reader.readuntil(b"/a "), 5)
            address = writer.get_extra_info("peername")
            second, other = await asyncio.open_connection(*address)
            answer = await asyncio.wait_for(second.read(), 5)
            other.close()
            writer.write(GET % b"b")
            return answer, await asyncio.wait_for(reader.readuntil(b"/b "), 5)

    refused, served = run(scenario())

    assert (statuses(refused), statuses(served)) == ([503], [200])


def test_a_body_that_nobody_reads_slows_its_sender_down():
    async def app(scope, receive, send):
        await asyncio.sleep(30)

    async def scenario():
        async with connected(listener(app)) as (_, writer):
            writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 500000000\r\n\r\n")
            writer.transport.set_write_buffer_limits(high=1)
            sent = 0
            with contextlib.suppress(asyncio.TimeoutError):
                while sent < 100_000_000:
                    writer.write(b"x" * 1_000_000)
                    await asyncio.wait_for(writer.drain(), 1)
                    sent += 1_000_000
            return sent

    assert run(scenario()) < 50_000_000


def test_a_whole_request_is_answered_directly_where_that_can_be():
    def direct(exchange):
        if exchange.head.path != "/direct":
            return False
        asyncio.get_running_loop().call_soon(exchange.reply, 200, b"X-Direct: 1\r\n", bytes(exchange.body))
        return True

    answer = talk(
        b"POST /direct HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi" + GET % b"b", listener(direct=direct)
    )

    assert b"X-Direct: 1\r\nContent-Length: 2" in answer
    assert answer.count(b"X-Direct") == 1


def test_a_request_that_dawdles_is_refused_after_the_one_before_it_is_answered():
    async def patient(scope, receive, send):
        await asyncio.sleep(2.5)
        await echo(scope, receive, send)

    answer = talk(GET % b"a" + b"GET /b HT", listener(patient, receive_s=0.5), until_closed=True)

    assert statuses(answer) == [200, 408]
