"""What the pages of this repository name exists: paths, modules, targets of make, settings, and what they link to."""

import re
import subprocess
from pathlib import Path

import pytest

from tools.deployment import ROOT

PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(ROOT.glob("docs/**/*.md")),
    *ROOT.glob("examples/*/README.md"),
]
FILES = [Path(name) for name in subprocess.check_output(["git", "ls-files"], cwd=ROOT, text=True).splitlines()]
NAMES = {path.as_posix() for file in FILES for path in (file, *file.parents)}
# A page may leave out where the service lies: `engine/curve.py`.
BELOW = ("", "service/", "service/bedplate/")
FIRST = {name.removeprefix(below).split("/")[0] for below in BELOW for name in NAMES if name.startswith(below)}
MADE_BY_RUNS = re.compile(r"inventory/\w+/(secrets\.yml|authority|\.lease)")


def spans(page):
    return re.findall(r"(?<!`)`([^`\n]+)`(?!`)", page.read_text())


def anchors(page):
    return {
        re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-")
        for head in re.findall(r"^#+ (.*)$", page.read_text(), re.M)
    }


def exists(path):
    """Of a path with a word in capitals, such as NAME, the folder before it has to be there."""
    path = re.sub(r"/[^/]*\b[A-Z]{4,}\b.*", "", path)
    return any(f"{below}{path}" in NAMES or any(ROOT.glob(f"{below}{path}")) for below in BELOW)


def missing(page):
    text = page.read_text()
    words = [word.rstrip("./") for span in spans(page) for word in re.findall(r"(?<![\w~./:-])[\w./*@-]+", span)]
    for word in words:
        if "/" in word and word.split("/")[0] in FIRST and not MADE_BY_RUNS.match(word) and not exists(word):
            yield word
    for module in re.findall(r"python -m ([\w.]+)|`(bedplate(?:\.\w+)+)`", text):
        path = max(module).replace(".", "/")
        # The last part may be what is in the module.
        found = [f"{path}.py", f"{path}/__main__.py", f"{path.rpartition('/')[0]}.py"]
        if not any(exists(each) for each in found) and not exists(f"{path}/__init__.py"):
            yield ".".join(max(module).split("."))
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    yield from (f"make {target}" for target in re.findall(r"`make ([a-z-]+)", text) if target not in targets)


def broken_links(page):
    for target, anchor in re.findall(r"\]\(([^)#\s]*)#?([\w-]*)\)", page.read_text()):
        if not target.startswith("http"):
            linked = page.parent / target if target else page
            if not linked.exists() or (anchor and anchor not in anchors(linked)):
                yield f"{target}#{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_what_a_page_names_is_there(page):
    assert list(missing(page)) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_where_a_page_links_to_is_there(page):
    assert list(broken_links(page)) == []


def test_settings_that_pages_name_are_read_by_something():
    roles = "|".join(path.name for path in (ROOT / "roles").iterdir())
    setting = re.compile(rf"\b(?:{roles}|secret)_[a-z0-9_]+\b")
    code = {
        name
        for file in FILES
        if file.suffix in (".yml", ".j2", ".py")
        for name in setting.findall((ROOT / file).read_text())
    }
    metrics = set(setting.findall((ROOT / "docs/metrics.md").read_text()))

    told = {
        name for page in PAGES if page.name != "metrics.md" for span in spans(page) for name in setting.findall(span)
    }

    assert len(told) > 80
    assert told - code - metrics == set()
