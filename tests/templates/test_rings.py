"""Every file of tests belongs to a ring: something that `make` or molecule starts names it."""

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


def test_the_table_of_minutes_tells_each_part_the_whole_and_what_failed():
    lines = table(["started\t1000\t0", "types\t90\t0", "service\t600\t1"], now=1720)

    assert lines == ["types            1.5 min", "service         10.0 min  failed", "all of it       12.0 min"]


def test_a_run_over_its_budget_says_so():
    assert "over its budget of 50 min" in table(["started\t0\t0"], now=51 * 60)[-1]
