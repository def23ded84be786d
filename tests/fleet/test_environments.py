"""Inventories that operators copy, each in a dry run against the hosts that molecule's own inventory built."""

import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor

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


@pytest.fixture(scope="module")
def dry_runs(fleet):
    """{environment: its run}, all at once: they wait for their hosts most of the time."""

    def run(name):
        inventory = trial.copy(ROOT / "inventory" / name, fleet.fleet)
        # The hosts know these secrets; with others a dry run could not open their backups.
        shutil.copy(fleet.inventory / "secrets.yml", inventory)
        shutil.copytree(fleet.inventory / "authority", inventory / "authority", dirs_exist_ok=True)
        (inventory / "certificates").mkdir(exist_ok=True)
        subprocess.run(CERTIFICATE.split(), cwd=inventory / "certificates", check=True, capture_output=True)
        return fleet.playbook("../site.yml", f"--inventory={inventory}", "--check", "--diff")

    with ThreadPoolExecutor() as pool:
        return dict(zip(CHANGES, pool.map(run, CHANGES), strict=True))


@pytest.mark.parametrize("name", CHANGES)
def test_a_dry_run_goes_through_and_says_what_it_would_change(dry_runs, name):
    run = dry_runs[name]

    assert run.returncode == 0, run.stdout
    assert [words for words in CHANGES[name] if words not in run.stdout] == []
