"""Every file of tests belongs to a ring: something that `make` or molecule starts names it."""

import ast
import re

import pytest
import tomllib
import yaml

from tools.deployment import ROOT
from tools.minutes import table

FILES = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "tests").glob("*/test_*.py"))


def named_by_make():
    """What pytest is given after its options; alone on a line it takes pyproject's."""
    named = []
    for line in (ROOT / "Makefile").read_text().splitlines():
        if arguments := re.search(r"\$\(BIN\)/pytest\b([^|]*)", line):
            named += [word for word in arguments[1].split() if word.startswith("tests/")]
    return named


def named_by_molecule():
    for file in (ROOT / "molecule").glob("*/molecule.yml"):
        verifier = (yaml.safe_load(file.read_text()) or {}).get("verifier", {})
        yield from (name.removeprefix("../../") for name in verifier.get("additional_files_or_dirs", []))


def named_by_pytest():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]["testpaths"]


@pytest.mark.parametrize("file", FILES)
def test_a_file_of_tests_belongs_to_a_ring(file):
    rings = {*named_by_make(), *named_by_molecule(), *named_by_pytest()}

    assert rings & {file, file.rsplit("/", 1)[0]}, f"nothing runs {file}: name it in the Makefile or a molecule.yml"


def made_in(file):
    """The names that a module of tests defines itself."""
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            yield from (name.id for name in ast.walk(node) if isinstance(name, ast.Name))


def test_what_tests_import_from_one_another_is_defined_there():
    """A name that only passes through a module goes when that module needs it no more, and its tests still pass."""
    passing = []
    for file in (ROOT / "tests").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("tests."):
                continue
            source = (ROOT / node.module.replace(".", "/")).with_suffix(".py")
            if source.exists():
                defined = {*made_in(source)}
                names = [name.name for name in node.names if name.name not in defined]
                passing += [f"{file.relative_to(ROOT)}: {name} of {node.module}" for name in names]

    assert passing == []


def test_the_table_of_minutes_tells_each_part_the_whole_and_what_failed():
    lines = table(["started\t1000\t0", "types\t90\t0", "service\t600\t1"], now=1720)

    assert lines == ["types            1.5 min", "service         10.0 min  failed", "all of it       12.0 min"]


def test_a_run_over_its_budget_says_so():
    assert "over its budget of 50 min" in table(["started\t0\t0"], now=51 * 60)[-1]


def test_what_a_run_beside_it_makes_and_removes_is_not_linted():
    """ansible-lint reads .gitignore of the folder it begins in and of none below, and fails on a file that is gone."""
    made = [line for line in (ROOT / ".gitignore").read_text().splitlines() if line.startswith("/molecule/")]
    excluded = yaml.safe_load((ROOT / ".ansible-lint").read_text())["exclude_paths"]

    assert made
    assert [path for path in made if path.removeprefix("/") not in excluded] == []
