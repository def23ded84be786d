"""Parts whose failures a real fleet would show too late: roots, subnets, resolvers, process records."""

import os
import socket
import threading
from ipaddress import IPv4Network

import pytest

from tools.disposable.emulated import Machine
from tools.disposable.network import bridge_name, choose, nameservers
from tools.disposable.processes import process_of, recorded
from tools.disposable.roots import ensure_root, root_path
from tools.disposable.suites import SUITES
from tools.disposable.system import Refused

BOOKWORM = SUITES["bookworm"]


@pytest.fixture
def builder(tmp_path, monkeypatch):
    """A stand-in for mmdebstrap that counts its runs, found by PATH as the real one is."""
    monkeypatch.setenv("BEDPLATE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    def install(ending):
        program = tmp_path / "mmdebstrap"
        # The target is the last argument: no mirror is given.
        program.write_text(f'#!/bin/sh\nfor target; do :; done\nmkdir "$target" && echo >> {tmp_path}/runs\n{ending}\n')
        program.chmod(0o755)
        return lambda: len((tmp_path / "runs").read_text())

    return install


@pytest.mark.skipif(not os.path.exists(BOOKWORM.keyring), reason="no Debian archive keys on this machine")
class TestRoots:
    def test_left_over_of_a_cut_off_build_is_never_used(self, builder):
        builder("exit 0")
        partial = root_path(BOOKWORM).with_name(f"{root_path(BOOKWORM).name}.partial")
        partial.mkdir(parents=True)
        (partial / "half").touch()

        root = ensure_root(BOOKWORM)

        assert list(root.iterdir()) == []
        assert not partial.exists()

    def test_failed_build_leaves_no_root(self, builder):
        builder("exit 25")

        with pytest.raises(Refused, match="mmdebstrap ended with 25 for bookworm"):
            ensure_root(BOOKWORM)

        assert [path.name for path in root_path(BOOKWORM).parent.iterdir()] == [".lock"]

    def test_two_at_once_build_once(self, builder):
        runs = builder("sleep 0.3")
        threads = [threading.Thread(target=ensure_root, args=[BOOKWORM]) for _ in range(2)]

        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert runs() == 1


def test_mirror_and_recipe_make_another_root(monkeypatch):
    before = root_path(BOOKWORM)

    monkeypatch.setenv("BEDPLATE_MIRROR", "http://mirror.example/debian")

    assert root_path(BOOKWORM) != before


def test_subnet_avoids_what_the_machine_uses():
    first = choose("demo-1a2b", [])

    second = choose("demo-1a2b", [IPv4Network("10.0.0.0/8"), IPv4Network(first.subnet)])

    assert second.subnet != first.subnet
    assert not second.subnet.startswith("10.")


def test_no_free_subnet_is_refused_with_the_candidates():
    taken = [IPv4Network(text) for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")]

    with pytest.raises(Refused, match=r"none of .*192\.168\..* is free"):
        choose("demo-1a2b", taken)


def test_bridge_names_fit_the_kernel_and_differ_between_clones():
    names = {bridge_name(key) for key in ("a-very-long-fleet-1a2b", "a-very-long-fleet-1a2c", "demo-1a2b")}

    assert len(names) == 3
    assert max(map(len, names)) <= 15


def test_stub_resolver_is_passed_over_for_the_real_ones(tmp_path):
    (tmp_path / "stub").write_text("nameserver 127.0.0.53\n")
    (tmp_path / "real").write_text("nameserver 192.0.2.53\nnameserver fe80::1%eth0\n")

    assert nameservers((tmp_path / "stub", tmp_path / "real")) == ["192.0.2.53", "fe80::1%eth0"]


def test_machine_with_only_a_stub_resolver_is_refused(tmp_path):
    (tmp_path / "stub").write_text("nameserver ::1\n")

    with pytest.raises(Refused, match="no resolver but loopback"):
        nameservers((tmp_path / "stub", tmp_path / "absent"))


def test_record_of_a_pid_that_changed_hands_is_nobody(tmp_path):
    me = process_of(os.getpid())
    (tmp_path / "mine").write_text(f"{me.pid} {me.started_ticks}\n")
    (tmp_path / "recycled").write_text(f"{me.pid} {me.started_ticks - 1}\n")

    assert recorded(tmp_path / "mine") == me
    assert recorded(tmp_path / "recycled") is None


@pytest.mark.parametrize("content", ["", "12", "twelve 13"])
def test_damaged_record_is_nobody(tmp_path, content):
    (tmp_path / "pid").write_text(content)

    assert recorded(tmp_path / "pid") is None


@pytest.fixture
def monitor(tmp_path):
    """monitor(*answers) → a machine whose monitor greets, then answers each order with the next of these."""
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(tmp_path / "monitor"))
    listening.listen()

    def serve(answers):
        connection, _ = listening.accept()
        with connection, connection.makefile("rw") as lines:
            print('{"QMP": {}}', file=lines, flush=True)
            for answer in answers:
                lines.read(1)
                print(answer, file=lines, flush=True)

    def monitor(*answers):
        threading.Thread(target=serve, args=[answers], daemon=True).start()
        return Machine(tmp_path, tmp_path / "root", "vb-one", "bp-one")

    yield monitor
    listening.close()


def test_events_of_qemu_are_no_answers(monitor):
    machine = monitor('{"return": {}}', '{"event": "RESET"}\n{"return": {}}')

    machine.press("system_reset")


def test_an_order_that_qemu_refuses_is_told(monitor):
    machine = monitor('{"return": {}}', '{"error": {"class": "GenericError", "desc": "not now"}}')

    with pytest.raises(Refused, match="qemu refused system_reset: not now"):
        machine.press("system_reset")
