"""The socket file: for its group alone, replacing a dead program's and nobody else's."""

import os
import socket
import stat

import pytest
from bedplate.process import endpoint
from bedplate.process.settings import SettingsError


def test_the_socket_is_for_its_user_and_group_whatever_the_umask(tmp_path):
    before = os.umask(0)
    try:
        with endpoint.bind(tmp_path / "cpu0.sock"):
            mode = stat.S_IMODE((tmp_path / "cpu0.sock").stat().st_mode)
            after = os.umask(0)
    finally:
        os.umask(before)

    assert mode == 0o660
    assert after == 0


def test_a_dead_programs_socket_is_replaced(tmp_path):
    path = tmp_path / "cpu0.sock"
    endpoint.bind(path).close()  # as after SIGKILL: the file stays
    assert path.is_socket()

    with endpoint.bind(path), socket.socket(socket.AF_UNIX) as peer:
        peer.connect(str(path))


def test_a_living_programs_socket_is_left_alone(tmp_path):
    path = tmp_path / "cpu0.sock"
    with endpoint.bind(path):
        with pytest.raises(SettingsError, match="another program answers"):
            endpoint.bind(path)

        with socket.socket(socket.AF_UNIX) as peer:
            peer.connect(str(path))


@pytest.mark.parametrize("make", ["file", "link", "directory"])
def test_what_is_not_a_socket_is_left_alone(tmp_path, make):
    path = tmp_path / "cpu0.sock"
    (tmp_path / "precious").write_text("keep")
    {
        "file": lambda: path.write_text("keep"),
        "link": lambda: path.symlink_to(tmp_path / "precious"),
        "directory": path.mkdir,
    }[make]()

    with pytest.raises(SettingsError, match="is not a socket; remove it"):
        endpoint.bind(path)

    assert path.exists()


def test_a_directory_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(SettingsError, match=r"socket_dir: cannot bind .*wanted a writable directory"):
        endpoint.bind(tmp_path / "absent" / "cpu0.sock")


def test_a_path_that_is_too_long_for_a_socket_is_refused(tmp_path):
    with pytest.raises(SettingsError, match="at most 107 bytes"):
        endpoint.bind(tmp_path / ("x" * 120))
