"""A throw-away fleet, driven by the real tool."""

import json
import os
import subprocess
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
TOOL = REPOSITORY / "tools/testhosts"


class FleetOnTrial:
    def __init__(self, name):
        self.name = name
        self.access = REPOSITORY / ".bedplate" / name

    def tool(self, verb, *arguments, check=True):
        command = [str(TOOL), verb, self.name, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    def start(self, verb, *arguments):
        command = [*as_root(), str(TOOL), verb, self.name, *arguments]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def ssh(self, host, command):
        command = ["ssh", "-F", str(self.access / "ssh_config"), "-o", "BatchMode=yes", host, command]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

    def status(self):
        summary = json.loads(self.tool("status", "--json").stdout)
        return {host["name"]: host for host in summary["hosts"]}

    def summary(self):
        return json.loads((self.access / "hosts.json").read_text())


def as_root():
    return [] if os.geteuid() == 0 else ["sudo", "--preserve-env=BEDPLATE_SUITE,BEDPLATE_CACHE,BEDPLATE_MIRROR"]
