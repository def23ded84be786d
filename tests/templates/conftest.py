"""Templates rendered as Ansible renders them, without a host."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.loader import filter_loader, init_plugin_loader, lookup_loader
from ansible.template import Templar, trust_as_template

REPOSITORY = Path(__file__).resolve().parents[2]

FLEET = {
    "inventory_dir": str(REPOSITORY / "inventory/demo"),
    "inventory_hostname": "lb1",
    "private_address": "192.0.2.1",
    "groups": {
        "all": ["lb1", "gpu1", "gpu2", "ops1"],
        "lb": ["lb1"],
        "inference": ["gpu1", "gpu2"],
        "data": ["ops1"],
        "ops": ["ops1"],
    },
    "hostvars": {
        "lb1": {"private_address": "192.0.2.1"},
        "gpu1": {"private_address": "192.0.2.11"},
        "gpu2": {"private_address": "192.0.2.12"},
        "ops1": {"private_address": "192.0.2.21"},
    },
    "ansible_managed": "Ansible managed",
    # Of bundles, by the control machine.
    "__bedplate_checked": {"public_key": "ssh-ed25519 AAAA", "signatures": {}, "programs": {}},
}


@pytest.fixture(scope="session", autouse=True)
def plugins() -> None:
    init_plugin_loader()
    for folder in (REPOSITORY / "plugins/filter", *REPOSITORY.glob("roles/*/filter_plugins")):
        filter_loader.add_directory(str(folder))
    lookup_loader.add_directory(str(REPOSITORY / "plugins/lookup"))


@pytest.fixture
def evaluate() -> Callable[..., Any]:
    """What an expression or a text with expressions comes to, with a role's own variables, on a release."""

    def evaluated(role: str, text: str, release: str = "bookworm", **overrides: Any) -> Any:
        loader = DataLoader()
        variables = {"ansible_facts": {"distribution_release": release}, **FLEET}
        # Every role depends on `fleet`.
        for role_path in (REPOSITORY / "roles/fleet", REPOSITORY / "roles" / role):
            variables["role_path"] = str(role_path)
            for name in ("defaults/main.yml", "vars/main.yml"):
                variables |= loader.load_from_file(str(role_path / name), trusted_as_template=True)
        return Templar(loader, variables | overrides).template(trust_as_template(text))

    return evaluated


@pytest.fixture
def render(evaluate: Callable[..., Any]) -> Callable[..., str]:
    """Render a template with its role's own variables, on a release, with overrides."""

    def rendered(role: str, template: str, release: str = "bookworm", **overrides: Any) -> str:
        text: str = evaluate(role, (REPOSITORY / "templates" / template).read_text(), release, **overrides)
        return text

    return rendered
