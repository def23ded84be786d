"""Runs on the host, inside a unit's sandbox and outside: tries what a broken-into program would and says what it got.

Prints one JSON object, attempt → "allowed" or the name of the error.
"""

import ctypes
import errno
import json
import mmap
import os
import socket
import sys
import tempfile

PTRACE_TRACEME = 0
CLONE_NEWUSER = 0x10000000
LIBC = ctypes.CDLL(None, use_errno=True)


def write(path):
    with open(path, "w"):
        os.remove(path)


def read(path):
    with open(path, "rb") as file:
        file.read(1)


def call(function, *arguments):
    if function(*arguments) == -1:
        raise OSError(ctypes.get_errno(), "refused")


def map_writable_code():
    mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC).close()


def make_setuid_file():
    with tempfile.NamedTemporaryFile() as file:
        os.chmod(file.name, 0o4755)


def bind_engine_socket():
    path = "/run/bedplate/engine/probe.sock"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)
        os.remove(path)


def connect_to(path):
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(path)


ATTEMPTS = {
    "write /etc": lambda: write("/etc/bedplate-probe"),
    "write the release": lambda: write("/opt/bedplate/current/bedplate-probe"),
    "write /var/lib": lambda: write("/var/lib/bedplate/bedplate-probe"),
    "read /home": lambda: os.listdir("/home"),
    "read /root": lambda: os.listdir("/root"),
    "read the stored keys": lambda: read("/etc/bedplate/credentials/api-keys"),
    "read its credential": lambda: read(os.path.join(os.environ["CREDENTIALS_DIRECTORY"], "api-keys")),
    "read the models": lambda: os.listdir("/var/lib/bedplate/models"),
    "bind an engine's socket": bind_engine_socket,
    "connect to the engine": lambda: connect_to("/run/bedplate/engine/cpu0.sock"),
    "connect as an operator": lambda: connect_to("/run/bedplate/admin/cpu0.sock"),
    "open an inet socket": lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM).close(),
    "open an inet6 socket": lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM).close(),
    "open a raw socket": lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP).close(),
    "open a packet socket": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close(),
    "open a netlink socket": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW).close(),
    "see other processes": lambda: os.stat("/proc/1"),
    "trace a process": lambda: call(LIBC.ptrace, PTRACE_TRACEME, 0, 0, 0),
    "make a namespace": lambda: call(LIBC.unshare, CLONE_NEWUSER),
    "map writable code": map_writable_code,
    "make a setuid file": make_setuid_file,
}


def outcome(attempt):
    try:
        attempt()
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error.errno))
    except KeyError as error:
        return f"no {error.args[0]}"
    return "allowed"


def in_child(attempt):
    """A namespace or a tracer stays with the process that got it."""
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.write(writer, outcome(attempt).encode())
        os._exit(0)
    os.close(writer)
    os.wait()
    return os.read(reader, 100).decode()


json.dump({name: in_child(attempt) for name, attempt in ATTEMPTS.items()}, sys.stdout)
