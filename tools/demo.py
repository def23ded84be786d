"""`make demo`: hosts, site.yml, then every held-out picture through nginx over HTTPS, beside the truth."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from tools.deployment import ROOT, SERVER_NAME, Deployment
from tools.heldout import PREDICT, Case, read_cases

HOSTS = ("lb1", "gpu1", "gpu2", "ops1")
THRESHOLD = 0.97  # of the pictures right
COLUMNS = 6


def main() -> int:
    step("Test hosts: real systemd in nspawn, own addresses on a bridge")
    run([str(ROOT / "tools" / "testhosts"), "up", "demo", *HOSTS])
    step("ansible-playbook site.yml")
    run([str(Path(sys.executable).parent / "ansible-playbook"), "site.yml"])
    step("Unseen pictures through nginx over HTTPS: number, answer, truth, score")
    demo = Deployment("demo")
    good = predict_all(demo, read_cases())
    explain(demo)
    return 0 if good else 1


def step(title: str) -> None:
    print(f"\n=== {title}", flush=True)


def run(command: list[str]) -> None:
    """Run in sight of the user; a failure ends the demo with the command that failed."""
    status = subprocess.run(command, cwd=ROOT, check=False).returncode
    if status:
        sys.exit(f"demo: '{' '.join(command)}' ended with status {status}; the lines above say why")


def predict_all(demo: Deployment, cases: list[Case]) -> bool:
    """Ask for each, print the answers, and tell whether they are as good as promised."""
    connection = demo.connect()
    started = time.monotonic()
    answers: list[str] = []
    for number, case in enumerate(cases):
        answer = demo.ask(connection, "POST", PREDICT, case.file.read_bytes(), Content_Type="image/png")
        if answer.status != 200:
            sys.exit(f"demo: {case.file.name}: status {answer.status}: {answer.body.decode(errors='replace')[:500]}")
        [prediction] = answer.json["predictions"]
        answers.append(prediction["label"])
        mark = " " if prediction["label"] == case.truth else "!"
        end = "\n" if number % COLUMNS == COLUMNS - 1 else "   "
        print(f"{number:4} {prediction['label']} {case.truth} {prediction['score']:.2f}{mark}", end=end, flush=True)
    seconds = time.monotonic() - started
    connection.close()
    right = sum(answer == case.truth for answer, case in zip(answers, cases, strict=True))
    same = sum(answer == case.offline for answer, case in zip(answers, cases, strict=True))
    total = len(cases)
    print(f"\n\n{right} of {total} right ({right / total:.1%}; promised {THRESHOLD:.0%}), marked ! where not.")
    print(f"{same} of {total} answered as the model did offline. {total / seconds:.0f} requests/s on one connection.")
    return same == total and right >= THRESHOLD * total


def explain(demo: Deployment) -> None:
    step("What to try next")
    picture = next(iter(read_cases())).file.relative_to(ROOT)
    print(f"""
  key=$(.venv/bin/ansible-vault view inventory/demo/secrets.yml | sed -n 's/^secret_api_key: //p')
  curl --cacert inventory/demo/authority/ca.crt --resolve {SERVER_NAME}:443:{demo.address} \\
       -H @<(echo "Authorization: Bearer $key") -H 'Content-Type: image/png' \\
       --data-binary @{picture} https://{SERVER_NAME}{PREDICT}

  ssh -F .bedplate/demo/ssh_config gpu1 systemctl status 'bedplate-*'
  .venv/bin/ansible-playbook site.yml                 # again: nothing changes
  .venv/bin/ansible-playbook playbooks/check.yml      # is every host as declared, and does it answer rightly?
  .venv/bin/ansible-playbook playbooks/restart.yml    # the web instances in turn; no request fails
  .venv/bin/ansible-playbook playbooks/drain.yml -e host=gpu1     # takes a host out; undrain.yml brings it back
  make demo-down                                      # leaves nothing behind
""")


if __name__ == "__main__":
    sys.exit(main())
