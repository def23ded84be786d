"""A settings file is read whole, or refused with key, value and what would do."""

from pathlib import Path

import pytest
from bedplate.commands.cli import main
from bedplate.engine.settings import EngineSettings
from bedplate.process import settings
from bedplate.process.settings import SettingsError
from bedplate.web.settings import WebSettings

ENGINE = """\
socket_dir: /run/bedplate/engine
bundles: [/models/lamp/1]
"""
WEB = """\
engines: [/run/bedplate/engine/cpu0.sock, /run/bedplate/engine/cpu1.sock]
api_keys_file: /etc/keys
request_timeout_s: 5
max_body_bytes: 1048576
decoders: [/run/bedplate/decode/1/decode.sock]
max_items: 8
metrics_dir: /run/figures
"""


def write(tmp_path, text):
    path = tmp_path / "web.yaml"
    path.write_text(text)
    return path


def test_every_setting_is_read(tmp_path):
    web = settings.load(WebSettings, write(tmp_path, WEB))

    sockets = (Path("/run/bedplate/engine/cpu0.sock"), Path("/run/bedplate/engine/cpu1.sock"))
    decoders = (Path("/run/bedplate/decode/1/decode.sock"),)
    assert web == WebSettings(sockets, decoders, Path("/etc/keys"), 5.0, 1_048_576, 8, Path("/run/figures"))


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("max_items: 0", "max_items: 0 does not do, wanted a whole number from 1 to 65536 items"),
        ("max_items: 8.5", "max_items: 8.5"),
        ("max_items: true", "max_items: True"),
        ("request_timeout_s: .nan", "request_timeout_s: nan"),
        ("max_items: many", "max_items: 'many'"),
        ("request_timeout_s: 1e9", "request_timeout_s: '1e9'"),
        ("request_timeout_s: 99999", "wanted a number from 0.1 to 3600 s"),
        ("engines: []", "a list with at least one text"),
        ("engines: /run/x.sock", "a list"),
        ("api_keys_file: keys", "an absolute path"),
        ("max_itmes: 8", "unknown key 'max_itmes'; known keys are api_keys_file, "),
    ],
)
def test_a_bad_setting_is_refused_with_key_value_and_remedy(tmp_path, line, says):
    key = line.partition(":")[0]
    kept = [old for old in WEB.splitlines() if not old.startswith(f"{key}:")]
    path = write(tmp_path, "\n".join([*kept, line]))

    with pytest.raises(SettingsError) as caught:
        settings.load(WebSettings, path)

    assert says in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("value", ["float16", "[bfloat16]", "16", '""'])
def test_a_text_that_is_no_choice_is_refused_with_the_choices(tmp_path, value):
    path = write(tmp_path, f"socket_dir: /run\nbundles: [/bundle]\nprecision: {value}\n")

    with pytest.raises(SettingsError, match=r"precision: .* does not do, wanted float32 or bfloat16"):
        settings.load(EngineSettings, path)


@pytest.mark.parametrize(
    "text", ["", "- a\n", "a: [", "\0", "max_items: 8\n", "a: 2024-02-30", "a: !!bool foo", "a: !!map [b]"]
)
def test_a_file_that_is_none_is_refused(tmp_path, text):
    with pytest.raises(SettingsError, match=r"web\.yaml"):
        settings.load(WebSettings, write(tmp_path, text))


@pytest.mark.parametrize("program", [["web"], ["engine", "--device", "cpu0"]])
def test_a_program_with_bad_settings_does_not_start(tmp_path, capsys, program):
    path = write(tmp_path, "colour: red\n")

    status = main([*program, "--settings", str(path)])

    assert status == 2
    assert "unknown key 'colour'" in capsys.readouterr().err


@pytest.mark.parametrize(("line", "bound"), [("", None), ("models_memory_bytes: 1000", 1000)])
def test_a_bound_need_not_be_there(tmp_path, line, bound):
    assert settings.load(EngineSettings, write(tmp_path, ENGINE + line)).models_memory_bytes == bound


@pytest.mark.parametrize("value", ["0", "-1", "much", "true", "1.5", "null"])
def test_a_bound_that_is_there_is_a_number(tmp_path, value):
    with pytest.raises(SettingsError, match=r"models_memory_bytes: .* does not do, wanted a whole number from 1"):
        settings.load(EngineSettings, write(tmp_path, f"{ENGINE}models_memory_bytes: {value}"))
