"""Inventories that operators copy: complete, alike but for a page, refused until edited, good for every template."""

from __future__ import annotations

import difflib
import json
from fnmatch import fnmatch
from pathlib import Path

import pytest
import yaml
from ansible.inventory.manager import InventoryManager
from ansible.parsing.dataloader import DataLoader
from ansible.vars.manager import VariableManager

from tools import trial
from tools.preflight import placeholders

REPOSITORY = Path(__file__).resolve().parents[2]
ENVIRONMENTS = ["development", "staging", "production"]
EXAMPLES = [*ENVIRONMENTS, "one-host"]
GROUPS = ["lb", "inference", "data", "ops"]
PAGE = 66  # lines
# Those of hosts with GPUs are left out, which none of these inventories has.
TEMPLATES = sorted(
    str(path.relative_to(REPOSITORY / "templates"))
    for path in REPOSITORY.glob("templates/**/*.j2")
    if "gpu" not in str(path) and "nvidia" not in str(path)
)
UNITS = "etc/systemd/system"
# By role: a group whose hosts get its files, and the files.
WRITTEN = {
    "backup": (
        "inference",
        [
            *(f"{folder}/{name}*" for folder, name in (("etc/bedplate", "backup"), (UNITS, "bedplate-backup"))),
            *(f"{folder}/{name}*" for folder, name in (("etc/bedplate", "store"), (UNITS, "bedplate-store"))),
            "*backup/ssh/*",
            "*/10-bedplate-backup*",
        ],
    ),
    "base": (
        "ops",
        ["etc/chrony/*", "*/00-bedplate.conf.j2", "etc/sudoers.d/*", "etc/sysctl.d/*", "*/journald.conf.d/*"],
    ),
    "bedplate": (
        "inference",
        [
            *(f"etc/bedplate/{name}.yaml.j2" for name in ("decode", "engine", "metrics", "web")),
            *(
                f"{UNITS}/bedplate{part}"
                for part in (
                    "-decode*",
                    "-engine*",
                    "-metrics*",
                    "-optimize*",
                    "-redis*",
                    "-web*",
                    ".slice*",
                    ".target*",
                )
            ),
            "etc/bedplate/bundle-signers.j2",
            "etc/tmpfiles.d/*",
        ],
    ),
    "exporters": (
        "lb",
        [
            *(f"etc/default/prometheus-{part}*" for part in ("n", "redis")),
            "etc/mtail/*",
            *(f"{UNITS}/{part}*" for part in ("mtail", "prometheus-[nr]")),
        ],
    ),
    "logrotate": ("lb", ["etc/logrotate.d/*", "etc/rsyslog.d/*", f"{UNITS}/logrotate*", f"{UNITS}/rsyslog*"]),
    "nginx": ("lb", ["etc/nginx/*", f"{UNITS}/nginx*"]),
    "prometheus": (
        "ops",
        [
            "etc/prometheus/*",
            *(f"etc/default/prometheus{part}" for part in (".j2", "-alert*", "-black*")),
            *(f"{UNITS}/prometheus{part}" for part in (".service*", "-alert*", "-black*")),
        ],
    ),
    "redis": ("data", ["etc/redis/*", "usr/local/lib/*", f"{UNITS}/redis*"]),
    "ufw": ("inference", ["etc/default/ufw.j2", "etc/ufw/*", "usr/local/sbin/*"]),
}
# What the templates are given beside settings.
GIVEN = {
    **dict.fromkeys(
        yaml.safe_load((REPOSITORY / "roles/secrets/vars/main.yml").read_text())["__secrets_new"], "x" * 43
    ),
    "__ufw_version": 4,
    "ansible_managed": "Ansible managed",
    "__bedplate_checked": {"public_key": "ssh-ed25519 AAAA", "signatures": {}, "programs": {}},
    "__bedplate_manifests": {"files": [{"path": str(REPOSITORY / "build/bundles/digits/1/SHA256SUMS")}]},
    "ansible_facts": {"distribution_release": "bookworm", "virtualization_tech_guest": []},
}


def settings_of(name):
    return {path.name: yaml.safe_load(path.read_text()) for path in (REPOSITORY / "inventory" / name).rglob("*vars/*")}


@pytest.fixture
def hosts():
    """hosts(inventory) → {host: its variables}, as Ansible reads them."""

    def hosts(name):
        loader = DataLoader()
        inventory = InventoryManager(loader, [str(REPOSITORY / "inventory" / name)])
        variables = VariableManager(loader, inventory)
        return {each.name: variables.get_vars(host=each) for each in inventory.get_hosts() if each.name != "localhost"}

    return hosts


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_group_has_a_host_and_every_host_a_group_and_an_address(hosts, name):
    found = hosts(name)

    assert {group for its in found.values() for group in its["group_names"]} == set(GROUPS)
    assert all(its["group_names"] and its["private_address"] for its in found.values())


def test_environments_set_the_same_settings():
    first, *others = ({file: set(its) for file, its in settings_of(name).items()} for name in ENVIRONMENTS)

    assert others == [first, first]


@pytest.mark.parametrize("pair", [("development", "staging"), ("staging", "production")])
def test_environments_differ_in_a_page(pair):
    one, other = (
        [line for path in placeholders.files(REPOSITORY / "inventory" / name) for line in path.read_text().splitlines()]
        for name in pair
    )

    changed = [line for line in difflib.ndiff(one, other) if line[0] in "-+"]

    assert 0 < len(changed) <= PAGE


@pytest.mark.parametrize("role", WRITTEN)
@pytest.mark.parametrize("name", EXAMPLES)
def test_its_settings_do_for_every_template(hosts, evaluate, name, role):
    every = hosts(name)
    group, patterns = WRITTEN[role]
    templates = [template for template in TEMPLATES if any(fnmatch(template, pattern) for pattern in patterns)]

    assert templates
    host = next(its for its in every.values() if group in its["group_names"])
    for template in templates:
        text = (REPOSITORY / "templates" / template).read_text()
        assert evaluate(role, text, **host | GIVEN | {"hostvars": every | {"localhost": {}}}).strip()


def test_no_template_is_left_out():
    patterns = [pattern for _, patterns in WRITTEN.values() for pattern in patterns]

    assert [template for template in TEMPLATES if not any(fnmatch(template, pattern) for pattern in patterns)] == []


@pytest.mark.parametrize("name", EXAMPLES)
def test_what_is_left_to_be_written_is_refused_until_it_is(name, tmp_path, monkeypatch):
    monkeypatch.setattr(trial, "ROOT", tmp_path)
    (tmp_path / ".bedplate/fleet").mkdir(parents=True)
    addresses = {host: f"10.0.0.{number}" for number, host in enumerate(["host1", "lb1", "gpu1", "gpu2", "ops1"], 1)}
    (tmp_path / ".bedplate/fleet/addresses.json").write_text(json.dumps(addresses))
    example = REPOSITORY / "inventory" / name

    found = {finding.place.rsplit(":", 1)[0] for finding in placeholders.judge(example)}
    left = list(placeholders.judge(trial.copy(example, "fleet")))

    assert found >= {str(example / "hosts.yml"), str(example / "group_vars/lb.yml")}
    assert left == []


def test_placeholders_in_comments_and_secrets_are_nobodys_business(tmp_path):
    (tmp_path / "group_vars").mkdir()
    (tmp_path / "group_vars/all.yml").write_text("# as 192.0.2.1\nbase_time_servers: []  # ntp.example.net\n")
    (tmp_path / "secrets.yml").write_text("secret: mail.example.com\n")

    assert list(placeholders.judge(tmp_path)) == []
