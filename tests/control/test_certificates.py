"""What the control machine signs for a host that is not the operator's any more, by the role's own tasks."""

from __future__ import annotations

import subprocess

import pytest
import yaml
from cryptography import x509

NAME, ADDRESS = "predict.example.org", "198.51.100.7"
HOSTILE = (
    "openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout lb1.key -out lb1.csr"
    " -subj /CN=github.com -addext subjectAltName=DNS:github.com -addext basicConstraints=critical,CA:TRUE"
    " -addext keyUsage=keyCertSign,digitalSignature -addext extendedKeyUsage=codeSigning,clientAuth"
)


@pytest.fixture(scope="module")
def serving(tmp_path_factory, first):
    """Prepared for a balancer with a name and an address."""
    control = type(first)(tmp_path_factory.mktemp("serving")).make()
    hosts = yaml.safe_load((control.inventory / "hosts.yml").read_text())
    lb1 = {"ansible_connection": "local", "private_address": ADDRESS, "nginx_server_name": NAME}
    hosts["all"]["children"] = {"lb": {"hosts": {"lb1": lb1}}}
    (control.inventory / "hosts.yml").write_text(yaml.safe_dump(hosts))
    done = control.prepare()
    assert done.returncode == 0, done.stdout
    return control


def test_the_authority_is_limited_to_what_the_inventory_serves(serving):
    certificate = x509.load_pem_x509_certificate((serving.authority / "ca.crt").read_bytes())

    constraints = certificate.extensions.get_extension_for_class(x509.NameConstraints)
    assert constraints.critical
    assert [str(each.value) for each in constraints.value.permitted_subtrees] == [NAME, f"{ADDRESS}/32"]


def test_a_hostile_request_gets_a_certificate_for_the_balancers_name_and_no_other(serving, tmp_path):
    subprocess.run(HOSTILE.split(), cwd=tmp_path, check=True, capture_output=True)
    task = {
        "ansible.builtin.include_role": {"name": "nginx", "tasks_from": "sign"},
        "vars": {"__nginx_request": {"csr": (tmp_path / "lb1.csr").read_text()}},
    }
    play = {"hosts": "lb1", "gather_facts": False, "vars_files": ["{{ inventory_dir }}/secrets.yml"], "tasks": [task]}
    (tmp_path / "sign.yml").write_text(yaml.safe_dump([play]))

    done = serving.run("ansible-playbook", f"--inventory={serving.inventory}", str(tmp_path / "sign.yml"))

    assert done.returncode == 0, done.stdout
    shown = ["openssl", "x509", "-noout", "-subject", "-ext", "subjectAltName,basicConstraints,extendedKeyUsage"]
    certificate = ["-in", str(serving.authority / "lb1.crt")]
    text = subprocess.run([*shown, *certificate], capture_output=True, text=True, check=True).stdout
    assert f"CN = {NAME}" in text
    assert f"DNS:{NAME}, IP Address:{ADDRESS}" in text
    assert "CA:FALSE" in text
    assert "github.com" not in text
    assert "Code Signing" not in text
