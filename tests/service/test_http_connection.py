"""One client's connection, over a real socket on the loop of production: what goes out for what comes in."""

import asyncio
import contextlib
import re
import socket

import pytest
import uvloop
from bedplate.web.http.connection import Connection, Listener
from bedplate.web.http.head import MAX_HEAD_BYTES

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
async def connected(listening, send_buffer=0):
    loop = asyncio.get_running_loop()
    listening.sweep(loop)
    server = await loop.create_server(lambda: Connection(listening, loop), "127.0.0.1", 0)
    if send_buffer:
        server.sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
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


@pytest.mark.parametrize("begun", [False, True])
def test_a_request_that_nobody_answers_ends_with_its_connection(begun):
    async def forgetful(scope, receive, send):
        if begun:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"a", "more_body": True})
        await asyncio.Event().wait()

    answer = talk(GET % b"a", listener(forgetful, answer_s=0.5), until_closed=True)

    assert statuses(answer) == [200 if begun else 504]
    assert begun or b'"urn:bedplate:problem:deadline-exceeded"' in answer


def test_a_request_that_is_taken_directly_and_forgotten_is_answered_too():
    answer = talk(GET % b"a", listener(direct=lambda exchange: True, answer_s=0.5), until_closed=True)

    assert statuses(answer) == [504]


def test_a_request_that_dawdles_is_refused_after_the_one_before_it_is_answered():
    async def patient(scope, receive, send):
        await asyncio.sleep(2.5)
        await echo(scope, receive, send)

    answer = talk(GET % b"a" + b"GET /b HT", listener(patient, receive_s=0.5), until_closed=True)

    assert statuses(answer) == [200, 408]


async def sink(scope, receive, send):
    """Never answers, and tells nobody that a body broke off."""
    while (await receive())["type"] != "http.disconnect":
        pass


@pytest.mark.parametrize("broken", [b"zz\r\n", b"2\r\nhi?\r\n", b"2\r\nhi\r\n0\r\nno field\r\n\r\n"])
def test_a_body_that_cannot_be_read_is_refused_at_once_and_ends_who_reads_it(broken):
    head = CHUNKED + b"\r\n"

    assert statuses(talk(head + broken, listener(sink), until_closed=True)) == [400]
    assert statuses(talk(GET % b"slow" + head + broken, until_closed=True)) == [200, 400]


def test_an_answer_under_way_is_cut_off_when_its_request_breaks():
    async def eager(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"one", "more_body": True})
        await sink(scope, receive, send)

    head = CHUNKED + b"\r\n"

    assert statuses(talk(head, listener(eager), until_closed=True, then=b"zz\r\n")) == [200]


def test_an_application_that_waits_for_a_first_event_judges_the_head_before_the_body_and_nobody_is_told_to_go_on():
    async def guarded(scope, receive, send):
        await receive()
        await early(scope, receive, send)

    head = b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 9000000\r\nExpect: 100-continue\r\n\r\n"

    assert statuses(talk(head, listener(guarded), until_closed=True)) == [413]


CHUNKED = b"POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
HALF_A_HEAD = b"X: " + b"x" * (MAX_HEAD_BYTES // 2)


@pytest.mark.parametrize("beside", [b"0\r\nY: ", b"2\r\nhi\r\n0\r\nY: ", b"1;y="])
@pytest.mark.parametrize("size", [1_000, 100_000])
def test_trailers_and_what_else_stands_beside_a_chunked_body_count_with_the_head(beside, size):
    async def scenario():
        async with connected(listener(sink)) as (reader, writer):
            sent = CHUNKED + HALF_A_HEAD + b"\r\n\r\n" + beside + b"y" * MAX_HEAD_BYTES * 3
            for start in range(0, len(sent), size):
                writer.write(sent[start : start + size])
                await asyncio.sleep(0)
            return await asyncio.wait_for(reader.read(), 3)

    assert statuses(run(scenario())) == [431]


def test_trailers_of_a_small_head_are_taken():
    assert statuses(talk(CHUNKED + b"\r\n0\r\n" + HALF_A_HEAD + b"\r\n\r\n")) == [200]


def test_a_request_that_dawdles_behind_an_answer_is_refused_though_its_head_was_whole():
    async def patient(scope, receive, send):
        await asyncio.sleep(2.5)
        await echo(scope, receive, send)

    half = b"POST /b HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nab"

    assert statuses(talk(GET % b"a" + half, listener(patient, receive_s=0.5), until_closed=True)) == [200, 408]


def test_no_answer_begins_while_the_client_does_not_take_the_last_and_then_all_come():
    begun = []

    async def large(scope, receive, send):
        begun.append(scope["path"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x" * 500_000})

    async def scenario():
        async with connected(listener(large)) as (reader, writer):
            writer.transport.pause_reading()
            writer.write(GET % b"a" * 100)
            for _ in range(50):  # turns in which the socket's buffers fill
                await asyncio.sleep(0.01)
            early = len(begun)
            writer.transport.resume_reading()
            writer.write_eof()
            return early, len(await asyncio.wait_for(reader.read(), 20))

    early_ones, received = run(scenario())

    assert early_ones < 30
    assert received > 100 * 500_000


def test_requests_that_wait_are_kept_as_they_came_not_parsed():
    gate = asyncio.Event()

    async def gated(scope, receive, send):
        await gate.wait()
        await echo(scope, receive, send)

    async def scenario():
        listening = listener(gated)
        async with connected(listening) as (reader, writer):
            writer.write(GET % b"a" * 5_000)
            await asyncio.sleep(0.1)
            (connection,) = listening.connections
            waiting = len(connection._exchanges)
            gate.set()
            writer.write_eof()
            return waiting, statuses(await asyncio.wait_for(reader.read(), 20))

    waiting, answered = run(scenario())

    assert waiting < 2_500
    assert answered == [200] * 5_000


@pytest.mark.parametrize("last", [b"", b"Connection: close\r\n"])
def test_a_client_that_does_not_take_its_answer_is_left(last):
    async def large(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x" * 1_000_000})

    async def scenario():
        listening = listener(large, send_s=0.1)
        async with connected(listening, send_buffer=1) as (_, writer):
            writer.transport.pause_reading()
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n" + last + b"\r\n")
            while not listening.connections:
                await asyncio.sleep(0.01)
            for _ in range(500):
                if not listening.connections:
                    return True
                await asyncio.sleep(0.01)

    assert run(scenario())


def half_closed(data, listening=None):
    """Everything that comes back for `data` from a client that then closes its side."""

    async def scenario():
        async with connected(listening or listener()) as (reader, writer):
            writer.write(data)
            writer.write_eof()
            return await asyncio.wait_for(reader.read(), 10)

    return run(scenario())


POST = b"POST /slow HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi"


def test_a_client_that_closes_its_side_gets_all_its_answers_and_then_the_end():
    answer = half_closed(POST + GET % b"b" + POST)

    assert re.findall(rb"/\w+ (?:hi)?", answer) == [b"/slow hi", b"/b ", b"/slow hi"]


@pytest.mark.parametrize("part", [b"GET / HT", POST[:-1], GET % b"a" + POST[:-1]])
def test_a_client_that_closes_its_side_too_early_is_told_so(part):
    assert statuses(half_closed(part))[-1:] == [400]


def test_a_client_that_waits_long_after_it_closed_its_side_is_told_that_it_takes_time():
    async def patient(scope, receive, send):
        await asyncio.sleep(0.8)
        await echo(scope, receive, send)

    assert statuses(half_closed(POST, listener(patient))) == [102, 200]


@pytest.mark.parametrize(
    "host", [b"user@x", b"u:p@x", b"x/path", b"x,y", b"x y", b"x?a", b"x#a", b"x:port", b"[x]", b"x:1:2", b"x%zz"]
)
def test_a_host_that_is_more_than_name_and_port_is_refused(host):
    assert statuses(talk(b"GET / HTTP/1.1\r\nHost: %b\r\n\r\n" % host, until_closed=True)) == [400]
    if b" " not in host and b"/" not in host and b"?" not in host:
        target = b"GET http://%b/a HTTP/1.1\r\nHost: x\r\n\r\n" % host
        assert statuses(talk(target, until_closed=True)) == [400]


@pytest.mark.parametrize("host", [b"x", b"X.example:8000", b"[::1]:80", b"127.0.0.1", b"", b"a_b", b"%41.example"])
def test_a_host_of_name_or_address_is_taken(host):
    request = b"GET / HTTP/1.1\r\nHost: %b\r\nConnection: close\r\n\r\n" % host

    assert statuses(talk(request, until_closed=True)) == [200]


OFFERS = [
    b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABk\r\n",
    b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n",
    b"Upgrade: TLS/1.2, x\r\nConnection: keep-alive, upgrade\r\n",
]


@pytest.mark.parametrize("offer", OFFERS)
@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_an_offer_of_another_protocol_is_ignored_and_the_request_is_answered(offer, size):
    head = b"POST /a HTTP/1.1\r\nHost: x\r\n" + offer
    requests = (
        head + b"Content-Length: 2\r\n\r\nhi",
        head + b"Transfer-Encoding: chunked\r\n\r\n1\r\nh\r\n1\r\ni\r\n0\r\n\r\n",
        b"GET /b HTTP/1.1\r\nHost: x\r\n" + offer + b"\r\n",
        GET % b"c",
    )

    async def scenario():
        async with connected(listener()) as (reader, writer):
            sent = b"".join(requests)
            for start in range(0, len(sent), size):
                writer.write(sent[start : start + size])
                await asyncio.sleep(0)
            writer.write_eof()
            return await asyncio.wait_for(reader.read(), 10)

    answer = run(scenario())

    assert statuses(answer) == [200] * 4
    assert re.findall(rb"/\w (?:hi)?", answer) == [b"/a hi", b"/a hi", b"/b ", b"/c "]


def test_many_offers_in_one_piece_are_answered_one_by_one():
    request = b"GET /b HTTP/1.1\r\nHost: x\r\n" + OFFERS[1] + b"\r\n"

    assert statuses(half_closed(request * 1_000)) == [200] * 1_000


def test_a_tunnel_is_refused():
    assert statuses(talk(b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n", until_closed=True)) == [400]
