"""Connects to each HOST:PORT of its arguments and prints, as JSON, what it got.

A refusal counts as reached: somebody sent it.
"""

import errno
import json
import socket
import sys


def outcome(target):
    host, port = target.rsplit(":", 1)
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except ConnectionRefusedError:
        return "reached"
    except TimeoutError:
        return "timeout"
    except OSError as error:
        return errno.errorcode[error.errno]
    return "reached"


print(json.dumps({target: outcome(target) for target in sys.argv[1:]}))
