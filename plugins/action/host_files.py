"""Action plugin: what the module of the same name writes, rendered here on the control machine first."""

from __future__ import annotations

from pathlib import Path

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.template import trust_as_template

TEMPLATES = Path(__file__).resolve().parents[2] / "templates"
# What Ansible's own `template` says where the inventory sets nothing else.
MANAGED = {"ansible_managed": "Ansible managed"}


class ActionModule(ActionBase):
    """Gives each file that has no content its template's, and runs the module; see library/host_files.py."""

    templates = TEMPLATES

    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        if isinstance(arguments.get("files"), list):
            arguments["files"] = [self.with_content(entry, task_vars) for entry in arguments["files"]]
        return result | self._execute_module(module_args=arguments, task_vars=task_vars)

    def with_content(self, entry, task_vars):
        """An entry as the module knows it, without `src` and `vars`.

        Raises:
            AnsibleActionFail: where there is no template, or content beside one. The module refuses what else is wrong.
        """
        if not isinstance(entry, dict) or not entry.get("path"):
            return entry
        plain = {key: value for key, value in entry.items() if key not in ("src", "vars")}
        if entry.get("state", "file") != "file":
            return plain
        if "content" not in entry:
            return plain | {"content": self._rendered(entry, task_vars)}
        if plain.keys() != entry.keys():
            raise AnsibleActionFail(f"{entry['path']}: 'content' stands alone; 'src' and 'vars' are of a template")
        return plain

    def _rendered(self, entry, task_vars):
        source = self.templates / entry.get("src", f"{entry['path'].lstrip('/')}.j2")
        if not source.is_file():
            raise AnsibleActionFail(f"{entry['path']}: there is no {source}; make it, or give src or content")
        text = trust_as_template(self._loader.get_text_file_contents(str(source)))
        templar = self._templar.copy_with_new_env(
            searchpath=[str(self.templates)], available_variables=MANAGED | task_vars | entry.get("vars", {})
        )
        rendered = templar.template(text, escape_backslashes=False)
        return "" if rendered is None else rendered
