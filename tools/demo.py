"""`make demo`: hosts, site.yml, then every held-out picture through nginx over HTTPS, beside the truth."""

from __future__ import annotations

import csv
import http.client
import json
import socket
import ssl
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
INVENTORY = ROOT / "inventory" / "demo"
HELD_OUT = ROOT / "build" / "examples" / "digits" / "heldout"
HOSTS = ("lb1", "gpu1")
THRESHOLD = 0.97  # of the pictures right
COLUMNS = 6


@dataclass(frozen=True)
class Case:
    file: Path
    truth: str
    offline: str  # what the model answered on the machine that trained it


def main() -> int:
    step("Test hosts: real systemd in nspawn, own addresses on a bridge")
    run([str(ROOT / "tools" / "testhosts"), "up", "demo", *HOSTS])
    step("ansible-playbook site.yml")
    run([str(Path(sys.executable).parent / "ansible-playbook"), "site.yml"])
    step("Unseen pictures through nginx over HTTPS: number, answer, truth, score")
    right = predict_all(read_cases())
    explain()
    return 0 if right else 1


def step(title: str) -> None:
    print(f"\n=== {title}", flush=True)


def run(command: list[str]) -> None:
    """Run in sight of the user; a failure ends the demo with the command that failed."""
    status = subprocess.run(command, cwd=ROOT, check=False).returncode
    if status:
        sys.exit(f"demo: '{' '.join(command)}' ended with status {status}; the lines above say why")


def read_cases() -> list[Case]:
    with (HELD_OUT / "predictions.csv").open() as file:
        return [Case(HELD_OUT / row["file"], row["label"], row["predicted"]) for row in csv.DictReader(file)]


def predict_all(cases: list[Case]) -> bool:
    """Ask for each, print the answers, and tell whether they are as good as promised."""
    connection = connect()
    key = api_key()
    started = time.monotonic()
    answers = []
    for number, case in enumerate(cases):
        label, score = predict(connection, key, case)
        answers.append(label)
        mark = " " if label == case.truth else "!"
        end = "\n" if number % COLUMNS == COLUMNS - 1 else "   "
        print(f"{number:4} {label} {case.truth} {score:.2f}{mark}", end=end, flush=True)
    seconds = time.monotonic() - started
    connection.close()
    right = sum(answer == case.truth for answer, case in zip(answers, cases, strict=True))
    same = sum(answer == case.offline for answer, case in zip(answers, cases, strict=True))
    total = len(cases)
    print(f"\n\n{right} of {total} right ({right / total:.1%}; promised {THRESHOLD:.0%}), marked ! where not.")
    print(f"{same} of {total} answered as the model did offline. {total / seconds:.0f} requests/s on one connection.")
    return same == total and right / total >= THRESHOLD


def predict(connection: http.client.HTTPSConnection, key: str, case: Case) -> tuple[str, float]:
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "image/png"}
    connection.request("POST", "/v1/models/digits/predict", case.file.read_bytes(), headers)
    response = connection.getresponse()
    body = response.read()
    if response.status != 200:
        sys.exit(f"demo: {case.file.name}: status {response.status}: {body.decode(errors='replace')[:500]}")
    [prediction] = json.loads(body)["predictions"]
    return prediction["label"], prediction["score"]


class _Connection(http.client.HTTPSConnection):
    """Goes to an address, but asks for and verifies a server name that no resolver knows."""

    def __init__(self, address: str, server_name: str, context: ssl.SSLContext):
        super().__init__(server_name, context=context, timeout=60)
        self._address = address
        self._tls = context

    def connect(self) -> None:
        plain = socket.create_connection((self._address, self.port), self.timeout)
        # Header and body are two writes; without this the second would wait for an acknowledgement.
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = self._tls.wrap_socket(plain, server_hostname=self.host)


def connect() -> http.client.HTTPSConnection:
    context = ssl.create_default_context(cafile=str(INVENTORY / "authority" / "ca.crt"))
    return _Connection(balancer_address(), server_name(), context)


def balancer_address() -> str:
    hosts = json.loads((ROOT / ".bedplate" / "demo" / "hosts.json").read_text())
    return next(str(host["address"]) for host in hosts if host["name"] == HOSTS[0])


def server_name() -> str:
    return "bedplate.test"


def api_key() -> str:
    vault = str(Path(sys.executable).parent / "ansible-vault")
    shown = subprocess.run(
        [vault, "view", str(INVENTORY / "secrets.yml")], cwd=ROOT, check=True, capture_output=True, text=True
    )
    return str(yaml.safe_load(shown.stdout)["secret_api_key"])


def explain() -> None:
    step("What to try next")
    address, name = balancer_address(), server_name()
    print(f"""
  key=$(.venv/bin/ansible-vault view inventory/demo/secrets.yml | sed -n 's/^secret_api_key: //p')
  curl --cacert inventory/demo/authority/ca.crt --resolve {name}:443:{address} \\
       -H "Authorization: Bearer $key" -H 'Content-Type: image/png' \\
       --data-binary @build/examples/digits/heldout/{next(iter(read_cases())).file.name} \\
       https://{name}/v1/models/digits/predict

  ssh -F .bedplate/demo/ssh_config gpu1 systemctl status 'bedplate-*'
  ansible-playbook site.yml       # again: nothing changes
  make demo-down                  # leaves nothing behind
""")


if __name__ == "__main__":
    sys.exit(main())
