import pytest

from tools.load.http1 import MalformedResponse, parse_response

LENGTH = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
CHUNKS = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n"
CONTINUED = b"HTTP/1.1 100 Continue\r\n\r\n" + LENGTH


@pytest.mark.parametrize("wire", [LENGTH, CHUNKS, CONTINUED])
def test_response_is_complete_with_its_last_byte_and_not_before(wire):
    early = [parse_response(bytearray(wire[:end])) for end in range(len(wire))]

    response = parse_response(bytearray(wire))

    assert not any(early)
    assert response is not None
    assert (response.status, response.body, response.reusable) == (200, b"hello", True)


def test_body_without_length_ends_with_the_connection():
    wire = b"HTTP/1.1 200 OK\r\n\r\nhello"

    assert parse_response(bytearray(wire)) is None
    response = parse_response(bytearray(wire), ended=True)

    assert response is not None
    assert (response.body, response.reusable) == (b"hello", False)


def test_bytes_that_nobody_asked_for_make_the_connection_unusable():
    response = parse_response(bytearray(LENGTH + b"HTTP/1.1 200"))

    assert response is not None
    assert not response.reusable


@pytest.mark.parametrize(
    "wire",
    [
        b"ICY 200 OK\r\n\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        b"x" * 70_000,
    ],
)
def test_what_is_not_http_is_refused(wire):
    with pytest.raises(MalformedResponse):
        parse_response(bytearray(wire))
