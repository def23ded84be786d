"""What the action plugin makes of a task's files before they go to a host: rendered from the project's templates."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.errors import AnsibleActionFail
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

from plugins.action.host_files import ActionModule

REPOSITORY = Path(__file__).resolve().parents[2]
OWN = {"owner": pwd.getpwuid(os.getuid()).pw_name, "group": pwd.getpwuid(os.getuid()).pw_name}


@pytest.fixture
def content_of(tmp_path):
    """content_of(entry, variables) → what the module is given for an entry, with the templates below tmp_path."""

    def content_of(entry: dict[str, Any], **variables: Any) -> dict[str, Any]:
        loader = DataLoader()
        templar = Templar(loader, variables)
        action = ActionModule(None, None, None, loader, templar, None)
        action.templates = tmp_path
        return action.with_content(templar.template(entry), variables)

    return content_of


@pytest.fixture
def template(tmp_path):
    """template(name, text) writes one below tmp_path."""

    def template(name: str, text: str) -> None:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)

    return template


def test_a_path_alone_is_rendered_from_its_template(content_of, template):
    template("etc/one.conf.j2", "{{ ansible_managed | comment }}\nname = {{ who }}\n")

    entry = content_of({"path": "/etc/one.conf"}, who=trust_as_template("{{ other }}"), other="bedplate")

    assert entry == {"path": "/etc/one.conf", "content": "#\n# Ansible managed\n#\nname = bedplate\n"}


def test_one_template_serves_several_paths_with_variables_of_their_own(content_of, template):
    template("etc/gpu.conf.j2", "{{ kind }}{{ number }}\n")

    entries = [
        content_of({"path": f"/etc/{n}", "src": "etc/gpu.conf.j2", "vars": {"number": n}}, kind="gpu", number="?")
        for n in (0, 1)
    ]

    assert entries == [{"path": "/etc/0", "content": "gpu0\n"}, {"path": "/etc/1", "content": "gpu1\n"}]


def test_a_template_may_include_another(content_of, template):
    template("etc/one.conf.j2", "{% include 'etc/two.conf.j2' %}\n")
    template("etc/two.conf.j2", "{{ who }}\n")

    assert content_of({"path": "/etc/one.conf"}, who="bedplate")["content"] == "bedplate\n"


def test_an_empty_template_makes_an_empty_file(content_of, template):
    template("etc/one.conf.j2", "")

    assert content_of({"path": "/etc/one.conf"})["content"] == ""


@pytest.mark.parametrize(
    "entry",
    [
        {"path": "/etc/x", "state": "absent", "validate": "true"},
        {"path": "/etc/x", "state": "directory", "mode": "0700"},
        {"path": "/etc/x", "content": "text", "mode": "0600"},
        # The module refuses these.
        {"path": "/etc/x", "content": "text", "vaildate": "true"},
        {"content": "text"},
    ],
)
def test_what_needs_no_template_goes_to_the_module_as_it_is(content_of, entry):
    assert content_of(entry) == entry


def test_a_template_of_what_is_absent_is_not_rendered(content_of, template):
    template("etc/x.j2", "{{ nobody_set_it }}\n")
    entry = {"path": "/etc/x", "src": "etc/x.j2", "vars": {"a": 1}, "state": "absent"}

    assert content_of(entry) == {"path": "/etc/x", "state": "absent"}


def test_a_text_of_a_stranger_is_never_a_template(content_of, template):
    """As the output of a host that was taken over."""
    template("etc/one.conf.j2", "{{ told.stdout }}{{ own }}\n")
    told = {"stdout": "{{ lookup('ansible.builtin.pipe', 'echo taken over') }}"}

    entry = content_of({"path": "/etc/one.conf", "vars": {"own": told["stdout"]}}, told=told)

    assert entry["content"] == told["stdout"] * 2 + "\n"


@pytest.mark.parametrize(
    ("entry", "complaint"),
    [
        ({"path": "/nowhere/at.all"}, r"/nowhere/at.all: there is no \S+/nowhere/at.all.j2"),
        ({"path": "/x", "src": "etc/no.j2"}, r"/x: there is no \S+/etc/no.j2"),
        ({"path": "/x", "content": "", "src": "y.j2"}, "/x: 'content' stands alone"),
        ({"path": "/x", "content": "", "vars": {}}, "/x: 'content' stands alone"),
    ],
)
def test_an_entry_whose_content_nobody_knows_is_refused_with_its_path(content_of, entry, complaint):
    with pytest.raises(AnsibleActionFail, match=complaint):
        content_of(entry)


class Project:
    """The plugin and its module in a project of their own, which writes below a folder of this machine."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.root = folder / "root"
        for name in ("ansible.cfg", "library/host_files.py", "plugins/action/host_files.py"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / name, folder / name)
        (folder / "tools").mkdir()
        (folder / "tools/vault-password").write_text("none")
        module = folder / "library/host_files.py"
        module.write_text(module.read_text().replace('"/var/lib/host-files"', f'"{folder}/records"'))

    def template(self, path: str, text: str) -> dict[str, str]:
        """Lay out the template of a path, and return the entry that asks for it."""
        source = self.folder / f"templates{self.root}/{path}.j2"
        source.parent.mkdir(parents=True, exist_ok=True)
        source.write_text(text)
        return {"path": f"{self.root}/{path}", **OWN}

    def run(self, tasks: list[dict[str, Any]], *options: str) -> str:
        """What a run of these tasks says."""
        play = {"hosts": "localhost", "connection": "local", "gather_facts": False, "tasks": tasks}
        (self.folder / "play.yml").write_text(yaml.safe_dump([play]))
        own = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
        command = [str(Path(sys.executable).parent / "ansible-playbook"), "-i", "localhost,", "play.yml", *options]
        command += ["-e", f"ansible_python_interpreter={sys.executable}"]
        done = subprocess.run(
            command, cwd=self.folder, env=own, capture_output=True, text=True, check=False, timeout=120
        )
        return done.stdout + done.stderr


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def test_tasks_write_rendered_files_show_the_difference_and_hide_secrets(project):
    plain = project.template("etc/{{ item }}.conf", "{{ item }} {{ who | upper }}\n")
    for name in ("one", "two"):
        project.template(f"etc/{name}.conf", "{{ item }} {{ who | upper }}\n")
    secret = project.template("secret.conf", "password = {{ 'sword' ~ 'fish' }}\n")
    tasks = [
        {"name": "Loop", "host_files": {"files": [plain]}, "loop": ["one", "two"], "vars": {"who": "bedplate"}},
        {"name": "Hide", "host_files": {"files": [secret]}, "no_log": True},
    ]

    dry, first, second = (project.run(tasks, *options) for options in (["--check", "--diff"], ["--diff", "-vvv"], []))

    assert "+one BEDPLATE" in dry
    assert "changed=2" in dry
    assert "+two BEDPLATE" in first
    assert "changed=2" in first
    assert "swordfish" not in dry + first
    assert "changed=0" in second
    assert (project.root / "etc/two.conf").read_text() == "two BEDPLATE\n"
    assert (project.root / "secret.conf").read_text() == "password = swordfish\n"


def test_all_rendered_files_of_a_task_land_or_none(project):
    good = project.template("good.conf", "a\n")
    bad = project.template("bad.conf", "{{ 'wro' ~ 'ng' }}\n") | {"validate": "! grep wrong %s"}

    unset = project.template("etc/unset.conf", "a\nb = {{ nobody_set_it }}\n")
    tasks = [
        {"name": "Be refused", "host_files": {"files": [good, bad]}, "ignore_errors": True},
        {"name": "Fail", "host_files": {"files": [good, unset]}},
    ]

    said = project.run(tasks)

    assert re.search(r"bad.conf is refused by .*wrong", said)
    assert "'nobody_set_it' is undefined" in said
    assert "etc/unset.conf.j2" in said
    assert not project.root.exists()


def entries() -> Iterator[tuple[str, dict[str, str]]]:
    """Each file that a role declares, in its tasks or variables, with the role's name."""
    for path in sorted(REPOSITORY.glob("roles/*/tasks/*.yml")) + sorted(REPOSITORY.glob("roles/*/vars/main.yml")):
        for entry in files_in(yaml.safe_load(path.read_text())):
            yield path.relative_to(REPOSITORY).parts[1], entry


def files_in(node: Any) -> Iterator[dict[str, str]]:
    if isinstance(node, list):
        for each in node:
            yield from files_in(each)
    elif isinstance(node, dict):
        for name, value in node.items():
            if str(name).endswith("files") and isinstance(value, list):
                yield from (each for each in value if isinstance(each, dict) and "path" in each)
            yield from files_in(value)


def template_of(entry: dict[str, str], path: str) -> str:
    return entry.get("src") or f"{path.lstrip('/')}.j2"


def test_every_path_that_a_role_declares_has_its_template_or_content(evaluate):
    missing = [
        f"{role}: {path}"
        for role, entry in entries()
        if "content" not in entry and entry.get("state") not in ("absent", "directory")
        for path in [evaluate(role, entry["path"])]
        if not (REPOSITORY / "templates" / template_of(entry, path)).is_file()
    ]

    assert missing == []


def test_every_template_is_of_a_path_that_a_role_declares(evaluate):
    wanted = {
        template_of(entry, evaluate(role, entry["path"]))
        for role, entry in entries()
        if "content" not in entry and entry.get("state") not in ("absent", "directory")
    }
    # The paths of its files follow from the GPUs of a host.
    wanted.add("etc/systemd/system/bedplate-engine@gpu.service.d/gpu.conf.j2")
    there = {str(path.relative_to(REPOSITORY / "templates")) for path in REPOSITORY.glob("templates/**/*.j2")}

    assert there - wanted == set()
