"""docs/bring-your-own.md, run as it stands."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

REPOSITORY = Path(__file__).parents[2]
PAGE = (REPOSITORY / "docs/bring-your-own.md").read_text()
BLOCK = re.compile(r"^```(?P<kind>[^\n]*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
MARK = "=== end of a block"
WITHIN_S = 500  # half a minute on two cores that nobody else uses


def blocks(page):
    """(kind, text) of each: 'sh', '' (what the block before it says), 'yaml', 'python NAME', 'yaml NAME'."""
    return [(block["kind"], block["text"]) for block in BLOCK.finditer(page)]


def steps(page):
    """(what a shell does, what it says or None) in order; a file is written by a shell, too."""
    found = []
    for kind, text in blocks(page):
        if kind == "sh":
            found.append((text, None))
        elif " " in kind:
            name = kind.split()[1]
            found.append((f"cat >{name} <<'the end of the file'\n{text}the end of the file\n", None))
        elif kind == "":
            found[-1] = (found[-1][0], text)
    return found


def as_pattern(said):
    """A line that is only '…' is any number of lines."""
    lines = [
        r"(?:.*\n)*?" if line == "…" else ".*".join(map(re.escape, line.split("…"))) + r"\n"
        for line in said.splitlines()
    ]
    return "".join(lines)


def run(page, folder):
    """What each step said. Ends with the first that fails."""
    program = folder / "bin/bedplate"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m bedplate "$@"\n')
    program.chmod(0o755)
    script = "set -e\ntrap 'kill $(jobs -p) 2>/dev/null' EXIT\n"
    script += "".join(f"{what}echo '{MARK}'\n" for what, _ in steps(page))
    environment = {
        **os.environ,
        "PATH": f"{program.parent}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(REPOSITORY / "service"),
        "TMPDIR": str(folder),
    }
    done = subprocess.run(
        ["bash", "-c", script], cwd=folder, env=environment, text=True, timeout=WITHIN_S, check=False,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    return done.stdout.split(f"{MARK}\n")


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


@pytest.mark.timeout(WITHIN_S + 60)
def test_every_block_does_what_the_page_says(tmp_path):
    # Port 8000 may be somebody's here.
    page = PAGE.replace("8000", str(free_port()))

    said = run(page, tmp_path)

    for number, (what, wanted) in enumerate(steps(page)):
        logs = "".join(log.read_text() for log in tmp_path.glob("*.log"))
        assert number < len(said) - 1, f"{what}\n{said[-1]}\n{logs}"
        if wanted is not None:
            assert re.fullmatch(as_pattern(wanted), said[number]), f"{what}\n{said[number]}"
    assert len(said) == len(steps(page)) + 1


def test_the_settings_that_it_shows_are_settings():
    known = yaml.safe_load((REPOSITORY / "roles/bedplate/defaults/main.yml").read_text())
    shown = [yaml.safe_load(text) for kind, text in blocks(PAGE) if kind == "yaml"]

    assert len(shown) == 3
    assert {name for settings in shown for name in settings} <= known.keys()


def test_a_block_that_fails_ends_the_run(tmp_path):
    page = "```sh\necho one\nfalse\n```\n\n```\none\n```\n\n```sh\necho two\n```\n"

    assert run(page, tmp_path) == ["one\n"]


@pytest.mark.parametrize(
    ("shown", "said", "does"),
    [
        ("a …\n", "a 12\n", True),
        ("a …\n", "b 12\n", False),
        ("a\n…\nb\n", "a\n1\n2\nb\n", True),
        ("a\n", "a\nb\n", False),
        ("a.b\n", "axb\n", False),
    ],
)
def test_what_is_shown_is_compared_line_by_line(shown, said, does):
    assert bool(re.fullmatch(as_pattern(shown), said)) is does
