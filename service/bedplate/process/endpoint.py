"""A program's socket file: the group of its directory may connect, and a new process takes it over from a dead one."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

from bedplate.process.settings import SettingsError

_LONGEST_PATH_BYTES = 107  # sun_path, unix(7)


def bind(path: Path, setting: str = "socket_dir", backlog: int = 128) -> socket.socket:
    """Return a listening socket at `path`, mode 0660; the group comes from the directory (docs/adr/0004).

    Args:
        setting: the key that chose the path, for the message of an error.

    Raises:
        SettingsError: the path is too long, a living program uses it, or it may not be replaced.
    """
    if len(os.fsencode(path)) > _LONGEST_PATH_BYTES:
        raise SettingsError(f"{setting}: {path} does not do, wanted a path of at most {_LONGEST_PATH_BYTES} bytes")
    _clear(path, setting)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    mask = os.umask(0o117)
    try:
        listener.bind(str(path))
        listener.listen(backlog)
    except OSError as error:
        listener.close()
        raise SettingsError(f"{setting}: cannot bind {path} ({error.strerror}); wanted a writable directory") from None
    finally:
        os.umask(mask)
    return listener


def _clear(path: Path, setting: str) -> None:
    """Remove what a dead program left; nobody else's file, and no socket that answers."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise SettingsError(f"{setting}: cannot look at {path} ({error.strerror})") from None
    if not stat.S_ISSOCK(mode):
        raise SettingsError(f"{setting}: {path} exists and is not a socket; remove it")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.settimeout(1.0)
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
        except OSError as error:
            raise SettingsError(f"{setting}: {path} cannot be tried ({error}); stop what holds it") from None
        else:
            raise SettingsError(f"{setting}: another program answers on {path}; stop it first")
