"""listen.py PORT COMMAND...: open a socket that others may share the port with, and become COMMAND with it.

What systemd does for a socket unit with ReusePort=yes.
"""

import os
import socket
import sys

_FIRST_FD = 3  # where systemd's sockets begin


def main() -> None:
    port, *command = sys.argv[1:]
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind(("127.0.0.1", int(port)))
    listener.listen(4096)
    if listener.fileno() == _FIRST_FD:
        os.set_inheritable(_FIRST_FD, True)
    else:
        os.dup2(listener.fileno(), _FIRST_FD)
    os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
