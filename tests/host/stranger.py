"""A client of the balancer that no list exempts: runs on the host itself, prints status, Retry-After and detail.

stranger.py PORT burst COUNT [SOURCE …]   predictions one after the other, from the sources (127.0.0.1) in turn
stranger.py PORT hold COUNT               uploads to a route without a rate limit that all stop before their last byte
"""

import contextlib
import json
import socket
import ssl
import sys

TLS = ssl.create_default_context()
TLS.check_hostname, TLS.verify_mode = False, ssl.CERT_NONE
PORT, COMMAND, COUNT = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
SOURCES = sys.argv[4:] or ["127.0.0.1"]


def send(source, path, body, length):
    plain = socket.create_connection(("::1" if ":" in source else "127.0.0.1", PORT), 10, (source, 0))
    connection = TLS.wrap_socket(plain, server_hostname="bedplate.test")
    head = f"POST {path} HTTP/1.1\r\nHost: bedplate.test\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
    connection.sendall(head.encode() + body)
    return connection


def read(connection, timeout_s):
    connection.settimeout(timeout_s)
    text = b""
    with contextlib.suppress(TimeoutError):
        while piece := connection.recv(65536):
            text += piece
    head, _, body = text.decode().partition("\r\n\r\n")
    if not head:
        return None
    headers = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:])
    return {
        "status": int(head.split()[1]),
        "retry_after": headers.get("retry-after"),
        "problem": json.loads(body) if "problem" in headers.get("content-type", "") else None,
    }


if COMMAND == "burst":
    path = "/v1/models/digits/predict"
    answers = [read(send(SOURCES[n % len(SOURCES)], path, b"x", 1), 10) for n in range(COUNT)]
else:
    held = [send(SOURCES[0], "/health", b"", 1) for _ in range(COUNT)]
    answers = [read(connection, 0.02) for connection in held]
print(json.dumps(answers))
