"""NVIDIA's library as a stand-in that gcc makes; the real binding finds it as it finds the real one."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import pynvml
import pytest

SOURCE = Path(__file__).parent / "nvml_stub.c"
UUIDS = ("GPU-0a", "GPU-0b")


class Stub:
    """The variables of the stand-in, by name; those of a GPU take its number too."""

    def __init__(self, path):
        # The name that the binding asks for is in the file: from now on this is what it gets.
        self._library = ctypes.CDLL(str(path))

    def reset(self):
        self.set(driver_loaded=1, slow_us=0, starts=0, lost=(0, 0), xid=(0, 0), temperature=(41, 42))

    def set(self, **values):
        for name, value in values.items():
            if isinstance(value, tuple):
                (ctypes.c_int * len(value)).in_dll(self._library, name)[:] = value
            else:
                ctypes.c_int.in_dll(self._library, name).value = value

    def get(self, name):
        return ctypes.c_int.in_dll(self._library, name).value


@pytest.fixture(scope="session")
def nvml_library(tmp_path_factory):
    """The folder with libnvidia-ml.so.1 in it."""
    assert shutil.which("gcc"), "gcc makes the stand-in for NVIDIA's library: apt-get install gcc libc6-dev"
    folder = tmp_path_factory.mktemp("nvml")
    name = "libnvidia-ml.so.1"
    command = ["gcc", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", f"-Wl,-soname,{name}"]
    subprocess.run([*command, "-o", folder / name, SOURCE], check=True)
    return folder


@pytest.fixture(scope="session")
def _loaded(nvml_library):
    return Stub(nvml_library / "libnvidia-ml.so.1")


@pytest.fixture
def stub(_loaded):
    _loaded.reset()
    yield _loaded
    # What a test left started must not be the next one's.
    pynvml.nvmlShutdown()
