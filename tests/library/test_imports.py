"""Who may import whom in service/bedplate: no circles, and no room imports one that stands on it."""

import ast
import re
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter

import pytest

from tools.deployment import ROOT

PACKAGE = ROOT / "service" / "bedplate"
MODULES = {
    "bedplate." + ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in PACKAGE.rglob("*.py")
}


def imported_by(module):
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "bedplate":
            for name in node.names:
                full = f"{node.module}.{name.name}"
                yield full if full in MODULES else node.module


def test_no_module_imports_in_a_circle():
    try:
        list(TopologicalSorter({module: set(imported_by(module)) for module in MODULES}).static_order())
    except CycleError as error:
        pytest.fail(f"these import each other in a circle: {' → '.join(error.args[1])}")


def room_of(module):
    """The folder of the service that a module lies in, or the module itself where it lies in none."""
    return ".".join(module.split(".")[:2])


def test_no_room_imports_one_that_stands_on_it():
    rooms = {}
    for module in MODULES:
        found = {room_of(other) for other in imported_by(module)} - {room_of(module), "bedplate"}
        rooms.setdefault(room_of(module), set()).update(found)
    try:
        list(TopologicalSorter(rooms).static_order())
    except CycleError as error:
        pytest.fail(f"these rooms import each other: {' → '.join(error.args[1])}")


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("bedplate.web.main", {"torch", "onnxruntime"}),
        ("bedplate.web.app", {"torch"}),
        ("bedplate.engine.main", {"onnxruntime", "falcon", "gunicorn"}),
        ("bedplate.engine.server", {"falcon", "gunicorn"}),
        ("bedplate.decode.main", {"torch", "onnxruntime", "falcon", "gunicorn"}),
        ("bedplate.bundle.bundle", {"torch", "onnxruntime", "falcon", "gunicorn"}),
        ("bedplate.process.settings", {"torch", "falcon", "gunicorn", "numpy"}),
        ("bedplate.process.log", {"torch", "falcon", "gunicorn", "numpy"}),
    ],
)
def test_a_process_loads_no_library_that_it_does_not_use(module, unwanted):
    program = f"import sys, {module}; print(*({unwanted} & set(sys.modules)))"

    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)

    assert loaded.stdout.split() == []


TESTS = sorted((ROOT / "tests").rglob("*.py"))
IMPORT = re.compile(r"from (bedplate[\w.]*) import (\w+)")


def test_programs_that_tests_hold_as_text_import_what_there_is():
    """No type checker reads them, and those of tests/host only run on hosts."""
    missing = []
    for path in TESTS:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                for module, name in IMPORT.findall(node.value):
                    if f"{module}.{name}" not in MODULES and name not in names_in(module):
                        missing.append(f"{path}:{node.lineno}: from {module} import {name}")

    assert missing == []


def names_in(module):
    return set(re.findall(r"\w+", MODULES[module].read_text())) if module in MODULES else set()
