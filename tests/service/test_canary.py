"""The canary asks for what clients get who ask for no version."""

import pytest
from bedplate.commands.canary import default_versions, read

from tests.service.engine_tools import write_lamp


@pytest.mark.parametrize(
    ("aliases", "expected"),
    [({}, "2"), ({"lamp": {"default": "1"}}, "1"), ({"lamp": {"fast": "1"}}, "2")],
)
def test_the_default_is_the_first_version_unless_an_alias_says_otherwise(tmp_path, aliases, expected):
    directories = [
        write_lamp(tmp_path / "b", version="2"),
        write_lamp(tmp_path / "a", version="1"),
        write_lamp(tmp_path / "c", version="7", name="tone"),
    ]
    bundles = [read(directory, None) for directory in directories]

    assert default_versions(bundles, aliases) == {"lamp": expected, "tone": "7"}
