"""The planted faults of tests/faults can still be planted, and no role goes without. Who notices them: make faults."""

from __future__ import annotations

from collections import Counter

import pytest
import yaml

from tests.faults.catalogue import ROOT, defines, read

ROLES = sorted(path.name for path in (ROOT / "roles").iterdir())
FAULTS = read()


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.role}: {fault.name}")
def test_a_fault_is_one_that_somebody_could_commit(fault):
    planted = fault.planted((ROOT / fault.file).read_text())

    assert fault.found != fault.put
    if fault.file.endswith(".yml"):
        yaml.safe_load(planted)
    if fault.file.endswith(".py"):
        compile(planted, fault.file, "exec")


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.role}: {fault.name}")
def test_those_who_should_notice_it_are_there(fault):
    files = [test for test in (*fault.tests, *fault.templates) if test != "again"]

    assert files or fault.tests
    assert [file for file in files if not (ROOT / file).exists()] == []
    assert not fault.play or fault.tests, "nobody asks the hosts"
    assert not fault.by or any(defines(fault.by, ROOT / file) for file in files)


def test_every_role_has_faults_and_every_sentence_is_said_once():
    counted = Counter(fault.role for fault in FAULTS)

    assert sorted(counted) == ROLES
    assert min(counted.values()) >= 3
    assert max(Counter((fault.role, fault.name) for fault in FAULTS).values()) == 1
