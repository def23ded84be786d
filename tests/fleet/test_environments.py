"""Inventories that operators copy, each in a dry run against the hosts that molecule's own inventory built."""

import shutil
import subprocess

import pytest

from tools import trial
from tools.deployment import ROOT, SERVER_NAME

# By environment: what its dry run says would be changed.
CHANGES = {
    "development": ["rate=100r/s", "+MaxRetentionSec=7day"],
    "staging": ["+MaxRetentionSec=14day", "--storage.tsdb.retention.size=4GB"],
    "production": ["+MaxRetentionSec=90day", ":8004"],
}
CERTIFICATE = (
    "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 60 -subj /CN=own"
    f" -addext subjectAltName=DNS:{SERVER_NAME} -keyout {SERVER_NAME}.key -out {SERVER_NAME}.pem"
)


# The others differ from production in what tests of templates compare (tests/templates/test_environments.py).
TRIED = ["production", *(pytest.param(name, marks=pytest.mark.acceptance) for name in ("staging", "development"))]


@pytest.mark.parametrize("name", TRIED)
def test_a_dry_run_goes_through_and_says_what_it_would_change(fleet, name):
    inventory = trial.copy(ROOT / "inventory" / name, fleet.fleet)
    # The hosts know these secrets; with others a dry run could not open their backups.
    shutil.copy(fleet.inventory / "secrets.yml", inventory)
    shutil.copytree(fleet.inventory / "authority", inventory / "authority", dirs_exist_ok=True)
    (inventory / "certificates").mkdir(exist_ok=True)
    subprocess.run(CERTIFICATE.split(), cwd=inventory / "certificates", check=True, capture_output=True)

    run = fleet.playbook("../site.yml", f"--inventory={inventory}", "--check", "--diff")

    assert run.returncode == 0, run.stdout
    assert [words for words in CHANGES[name] if words not in run.stdout] == []
