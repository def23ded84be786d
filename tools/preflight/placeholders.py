"""What the example inventories leave for their reader to write: addresses and names that belong to nobody.

Read from the files as they are, so that every line is found, whatever its variable and whether its host answers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from tools.preflight.hosts import CONTROL, Finding

# RFC 5737, 3849 and 2606.
RESERVED = re.compile(
    r"\b(?:192\.0\.2|198\.51\.100|203\.0\.113)\.\d+|\b2001:0?db8:[\da-f:]*|[\w.@-]*\bexample\.(?:com|net|org)\b", re.I
)
COMMENT = re.compile(r"(^|\s)#.*")


def judge(inventory: Path) -> Iterator[Finding]:
    """One finding for each file that has some."""
    for path in files(inventory):
        numbers, texts = [], []
        for number, line in enumerate(path.read_text().splitlines(), 1):
            found = RESERVED.findall(COMMENT.sub("", line))
            numbers += [str(number)] if found else []
            texts += found
        if texts:
            step = "They are reserved for examples: write what is yours, or take the line out."
            edit = f"{path}:{', '.join(numbers)}"
            yield Finding(CONTROL, "placeholder", ", ".join(dict.fromkeys(texts)), "your own", step, place=edit)


def files(inventory: Path) -> list[Path]:
    """Those that hold hosts and settings, in the order in which they are written."""
    folders = (inventory / "group_vars", inventory / "host_vars")
    found = [inventory / "hosts.yml", *(path for folder in folders for path in sorted(folder.rglob("*.y*ml")))]
    return [path for path in found if path.is_file()]
