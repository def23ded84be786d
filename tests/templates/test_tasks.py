"""What tasks forget easily: to have a file read once it has changed, and to keep a secret out of the output."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
ROLES = sorted(path.name for path in (REPOSITORY / "roles").iterdir())
# Read each time by who needs them, so nobody has to be told.
READ_EACH_TIME = [
    r"/etc/bedplate/((backup|store).json|credentials/backup-(s3|wanted))",
    r"/etc/logrotate.d/\w+",
    r"/etc/ssh/bedplate-backup/.*",
    r"/etc/sudoers.d/.*",
    r"/etc/systemd/system/(bedplate-((backup|optimize)@|store).service|bedplate.slice|bedplate.target)",
    r"/etc/tmpfiles.d/.*",
    r"/etc/(apt/apt.conf.d|modules-load.d)/.*",
    r"/etc/nginx/sites-enabled/default",
    # Read by the role's own next step, which compares them with what runs.
    r"/etc/(default/ufw|ufw/.*)",
]
# What shows a secret, or where it was made into something else first.
SECRET = re.compile(r"secret_\w+|_passwords?\b(?=[ |}])|backup_s3_key\b|__nginx_own_key\b|secrets_(text|new|known)")
# Modules that keep it out of their output themselves, and would hide their errors too; a word in a text.
SHOWN_BY_NOBODY = [
    "bundle_checks",
    "bundle_signatures",
    "community.crypto.",
    "private_authority",
    "ansible.builtin.debug",
    "ansible.builtin.assert",
    "ansible.builtin.fail",
]


def text_of(role):
    folder = REPOSITORY / "roles" / role
    files = [*sorted(folder.glob("tasks/*.yml")), folder / "vars/main.yml"]
    return "\n".join(path.read_text() for path in files if path.exists())


def tasks_of(role):
    for path in sorted((REPOSITORY / "roles" / role / "tasks").glob("*.yml")):
        yield from leaves(yaml.safe_load(path.read_text()))


def leaves(tasks):
    for task in tasks:
        inner = [step for part in ("block", "rescue", "always") for step in task.get(part, [])]
        yield from leaves(inner) if inner else [task]


@pytest.mark.parametrize("role", ROLES)
def test_a_file_that_a_unit_reads_is_one_that_it_is_made_to_read(role, evaluate):
    text = text_of(role)
    # A variable of the role stands for its path.
    for variable in re.findall(r'"({{ __\w+(?:path|check|drop_in) }})"', text):
        text = text.replace(f'"{variable}"', evaluate(role, variable))
    written = set(re.findall(r"^ +(?:- |- {)?path: (/etc/[^\s,}]+)", text, re.MULTILINE))
    directories = set(re.findall(r"path: (/\S+?),? +state: directory", text))
    told = re.sub(r"(?m)^ *(- |- {)?(\w*path|validate|test|content|argv|cmd):.*$", "", text)
    told = set(re.findall(r"/etc/[\w./@-]+", told))

    read = {path for path in written for each in told if path == each or path.startswith(f"{each}/")}
    unread = written - directories - read
    assert {path for path in unread if not any(re.fullmatch(each, path) for each in READ_EACH_TIME)} == set()


@pytest.mark.parametrize("role", ROLES)
def test_a_role_declares_units_in_its_own_name(role):
    """Under another's name its word would take the place of the other's."""
    given = [task["host_units"] for task in tasks_of(role) if "units" in task.get("host_units", {})]

    assert {each.get("role") for each in given} <= {role}


@pytest.mark.parametrize("role", ROLES)
def test_a_task_that_is_given_a_secret_does_not_show_it(role):
    shown = [
        task["name"]
        for task in tasks_of(role)
        if SECRET.search(str({key: value for key, value in task.items() if key not in ("name", "when")}))
        and not task.get("no_log")
        and not any(key.startswith(tuple(SHOWN_BY_NOBODY)) for key in task)
    ]

    assert shown == []


@pytest.mark.parametrize("role", ROLES)
def test_a_unit_is_written_after_the_program_that_it_starts(role):
    """systemd-analyze refuses a unit whose program is not there, before anything of its task is written."""
    for task in leaves(tasks_of(role)):
        paths = [
            str(file.get("path")) for file in task.get("host_files", {}).get("files", []) if isinstance(file, dict)
        ]
        units = [path for path in paths if path.startswith("/etc/systemd/system/")]
        programs = [path for path in paths if "bin/" in path]

        assert not (units and programs), f"{task['name']}: write {programs} in a task before {units}"


@pytest.mark.parametrize(
    "path", sorted(REPOSITORY.glob("roles/*/tasks/*.yml")) + sorted(REPOSITORY.glob("playbooks/*.yml"))
)
def test_a_file_of_tasks_that_is_included_is_there(path):
    """Ansible looks for it when it comes to it, which may be on a host that has changed half."""
    text = path.read_text()
    by_role = re.findall(r"name: (\w+)\n +tasks_from: (\w+)", text)
    beside = re.findall(r"(?:include|import)_tasks: ([\w.]+\.yml)", text)

    wanted = [REPOSITORY / "roles" / role / "tasks" / f"{name}.yml" for role, name in by_role]
    wanted += [path.parent / name for name in beside]
    assert text.count("tasks_from:") == len(by_role)
    assert [file for file in wanted if not file.is_file()] == []
