"""A fleet that site.yml built: molecule's, or the one BEDPLATE_FLEET names (`demo`)."""

import os

import pytest

from tools.deployment import Deployment


@pytest.fixture(scope="session")
def fleet():
    return Deployment(os.environ.get("BEDPLATE_FLEET", "molecule"))


@pytest.fixture
def ask(fleet):
    """ask(method, path, body, Header_Name=value) → Answer, with the right key unless told otherwise."""
    connection = fleet.connect()

    def ask(method, path, body=None, **headers):
        return fleet.ask(connection, method, path, body, **headers)

    yield ask
    connection.close()
