"""Throw-away fleets, made by the real tool on this machine."""

import sys

import pytest
from fleet_on_trial import REPOSITORY, FleetOnTrial

sys.path.insert(0, str(REPOSITORY / "tools"))


@pytest.fixture(scope="module")
def fleet():
    fleet = FleetOnTrial("trial")
    fleet.tool("down")
    fleet.tool("up", "one", "two")
    yield fleet
    fleet.tool("down")


@pytest.fixture
def other_fleet():
    fleet = FleetOnTrial("trial-other")
    fleet.tool("down")
    yield fleet
    fleet.tool("down")
