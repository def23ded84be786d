"""What the pages of docs/ tell operators to type: commands in fenced and indented blocks, and in backticks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from tools.deployment import ROOT

PAGES = ("operations.md", "runbooks.md")
SPAN = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
FENCE = re.compile(r"```(\w*)")


@dataclass(frozen=True)
class Code:
    """A line of a block, or what stands between two backticks."""

    text: str
    page: str
    line: int
    kind: str  # "sh" of a block of commands, "yaml" of one of settings, "" of one that says neither, "span" in a text

    def __str__(self) -> str:
        return f"docs/{self.page}:{self.line}: {self.text}"


def read(page: str) -> list[Code]:
    return list(parse((ROOT / "docs" / page).read_text(), page))


def parse(text: str, page: str = "") -> Iterator[Code]:
    """In the order of the page; what is indented by four is a block of commands."""
    fence: str | None = None
    for number, line in enumerate(text.splitlines(), 1):
        if found := FENCE.match(line):
            fence = found[1] if fence is None else None
        elif fence is not None or line.startswith("    "):
            if line.strip():
                yield Code(line if fence is not None else line.strip(), page, number, "sh" if fence is None else fence)
        else:
            yield from (Code(span, page, number, "span") for span in SPAN.findall(line))


def is_command(code: Code, programs: set[str]) -> bool:
    """Each line of a block of commands is one; a span is one if it calls a program with something."""
    if code.kind == "sh":
        return True
    words = code.text.removeprefix("sudo ").split()
    return code.kind == "span" and len(words) > 1 and words[0].rsplit("/", 1)[-1] in programs


def command(code: Code) -> str:
    """The text without the remark behind it."""
    return re.sub(r"\s+#.*$", "", code.text).strip()
