"""Lookup plugin: what one role says holds for another too, where the inventory sets nothing."""

from __future__ import annotations

from pathlib import Path

import yaml
from ansible.plugins.lookup import LookupBase

DOCUMENTATION = """
name: role_variables
short_description: Reads the variables of a role, as they are written
description:
  - For what a role has to know of another that this host does not have. Expressions are returned as texts.
options:
  _terms:
    description: ROLE/defaults or ROLE/vars, whose main.yml is read.
    required: true
"""
EXAMPLES = """
limit: "{{ lookup('role_variables', 'bedplate/defaults').bedplate_max_body_bytes }}"
"""
RETURN = """
_raw:
  description: A mapping for each term.
  type: list
  elements: dict
"""

ROLES = Path(__file__).resolve().parents[2] / "roles"


class LookupModule(LookupBase):
    def run(self, terms, variables=None, **kwargs):
        return [yaml.safe_load((ROLES / term / "main.yml").read_text(encoding="utf-8")) for term in terms]
