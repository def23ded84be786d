"""How long each part of `make test` takes, kept while it runs and printed as a table at its end (docs/testing.md).

python -m tools.minutes run PART COMMAND...    runs the command, writes its seconds down, ends as it ends
python -m tools.minutes print                  the table of the parts since the last `start`
python -m tools.minutes start                  forgets the parts of the run before
"""

from __future__ import annotations

import subprocess
import sys
import time

from tools.deployment import ROOT

RECORD = ROOT / "build" / "minutes"
LONGEST_MIN = 50  # of the whole, once every open issue is done; CI ends a run after 90


def start() -> int:
    RECORD.parent.mkdir(exist_ok=True)
    RECORD.write_text(f"started\t{time.time():.0f}\t0\n")
    return 0


def run(part: str, command: list[str]) -> int:
    began = time.monotonic()
    status = subprocess.run(command, check=False).returncode
    RECORD.parent.mkdir(exist_ok=True)
    # One short write each, so that parts that end together do not mix their lines.
    with RECORD.open("a") as record:
        record.write(f"{part}\t{time.monotonic() - began:.0f}\t{status}\n")
    return status


def table(lines: list[str], now: float) -> list[str]:
    """From the record (a part, its seconds, its exit status a line): minutes of each part, then of the whole."""
    started, rows = now, []
    for line in lines:
        part, figure, status = line.split("\t")
        if part == "started":
            started = float(figure)
            continue
        rows.append(f"{part:<14}{int(figure) / 60:6.1f} min{'' if status == '0' else '  failed'}")
    whole_min = (now - started) / 60
    over = f", over its budget of {LONGEST_MIN} min (docs/testing.md)" if whole_min > LONGEST_MIN else ""
    return [*rows, f"{'all of it':<14}{whole_min:6.1f} min{over}"]


def main(arguments: list[str]) -> int:
    match arguments:
        case ["start"]:
            return start()
        case ["print"]:
            print("\n".join(table(RECORD.read_text().splitlines(), time.time())))
            return 0
        case ["run", part, *command] if command:
            return run(part, command)
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
