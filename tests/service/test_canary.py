"""The canary asks for what clients get who ask for no version."""

import pytest
from bedplate.canary import default_versions

from tests.service.engine_tools import write_lamp


@pytest.mark.parametrize(
    ("aliases", "expected"),
    [({}, ["2", "7"]), ({"lamp": {"default": "1"}}, ["1", "7"]), ({"lamp": {"fast": "1"}}, ["2", "7"])],
)
def test_the_default_is_the_first_version_unless_an_alias_says_otherwise(tmp_path, aliases, expected):
    directories = [
        write_lamp(tmp_path / "b", version="2"),
        write_lamp(tmp_path / "a", version="1"),
        write_lamp(tmp_path / "c", version="7", name="tone"),
    ]

    assert [bundle.version for bundle in default_versions(directories, aliases)] == expected
