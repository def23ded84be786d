"""Throw-away fleets, made by the real tool on this machine."""

import pytest
from fleet_on_trial import FleetOnTrial


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
