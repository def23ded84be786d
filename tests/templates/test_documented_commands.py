"""What docs/operations.md and docs/runbooks.md tell operators to type can be typed: programs, files and names exist."""

import re
import subprocess
from functools import cache
from pathlib import Path

import pytest
import yaml
from ansible.cli.playbook import PlaybookCLI
from ansible.inventory.manager import InventoryManager
from ansible.parsing.dataloader import DataLoader

from tools import documented

REPOSITORY = Path(__file__).resolve().parents[2]
TABLE = yaml.safe_load((REPOSITORY / "tests/fleet/documented_commands.yml").read_text())
GROUPS = {"lb1": ["lb"], "gpu1": ["inference"], "gpu-with-nvidia": ["inference"], "ops1": ["data", "ops"]}
# What every host has: Debian's essential packages, systemd, and what the role base begins with.
EVERYWHERE = {"apt-get", "cat", "chmod", "chown", "cp", "df", "dmesg", "du", "grep", "head", "journalctl", "ls", "rm"}
EVERYWHERE |= {"sort", "sudo", "systemctl", "systemd-cgtop", "tail", "uniq"}
EVERYWHERE |= {"ss"}  # without iproute2 preflight stops
PACKAGES = {
    "amtool": "prometheus-alertmanager",
    "chronyc": "chrony",
    "curl": "curl",
    "nginx": "nginx",
    "promtool": "prometheus",
    "redis-cli": "redis-server",  # its package redis-tools comes with it
    "ufw": "ufw",
}
OURS = {  # from a role's own files
    "bedplate": ("bedplate", "dest: /usr/local/bin/bedplate"),
    "bedplate-backup": ("backup", "/usr/local/sbin/bedplate-backup"),
    "bedplate-firewall": ("ufw", "/usr/local/sbin/bedplate-firewall"),
    "check-redis": ("redis", "/usr/local/lib/bedplate/check-redis"),
    "nvidia-smi": ("nvidia", "nvidia-utils"),
}
OF_GROUP = {"lb": {"nginx"}, "inference": {"bedplate", "nvidia"}, "data": {"redis"}, "ops": {"prometheus"}}
OF_ALL = {"base", "ufw", "exporters", "logrotate", "backup"}
ON_CONTROL = {"ansible", "ansible-playbook", "ansible-vault", "cp", "diff", "openssl", "rm", "ssh", "testhosts"}
# Code with a space that is no command: settings, options, what programs say, what is typed into redis-cli.
NO_COMMAND = re.compile(r"[a-z_]+: .*|-.*|(INFO|ACL) .*|acl FILE|A-Z a-z 0-9 _ -|\. \.venv/bin/activate")
SAID = {"all files changed since", "Driver/library version mismatch", "Forwarding to syslog missed", "GPU is lost"}
SAID |= {"100 Continue", "ufw allow", "warn backup"}
# Commands of which a text speaks, not to be typed so.
NAMES = {"ansible-vault encrypt", "bedplate bundle check", "sudo -i", "systemctl restart"}


def programs(command):
    """Those that a command calls, without sudo and what it asks sudo for."""
    without_texts = re.sub(r"'[^']*'", "''", command)
    parts = re.split(r"&&|\|\||[;|]", re.sub(r"\$\(([^)]*)\)", "", without_texts))
    return [re.sub(r"^sudo (-u \S+ )?", "", part.strip()).split()[0] for part in parts]


KNOWN = {program.rsplit("/", 1)[-1] for its in TABLE.values() for text in its for program in programs(text)}
CODE = [code for page in documented.PAGES for code in documented.read(page)]
COMMANDS = [code for code in CODE if documented.is_command(code, KNOWN) and code.text not in SAID | NAMES]


def words(text):
    return re.findall(r"[\w@./*-]+", text)


@cache
def everything(*folders):
    paths = (path for folder in folders for path in (REPOSITORY / folder).rglob("*") if path.is_file())
    return "\n".join(path.read_text(errors="replace") for path in paths if path.suffix not in (".pyc", ".png"))


@pytest.fixture(scope="module")
def deployed():
    """All that ends up on hosts, as text: roles, templates, the program."""
    return everything("roles", "templates", "playbooks", "service/bedplate", "library", "tools/preflight")


@pytest.mark.parametrize("code", COMMANDS, ids=str)
def test_a_command_is_one_for_the_shell_and_quotes_what_it_puts_in(code):
    text = documented.command(code)
    parsed = subprocess.run(["bash", "-n", "-c", text], capture_output=True, text=True, check=False)

    assert parsed.returncode == 0, parsed.stderr
    bare = re.sub(r'"[^"]*"|\'[^\']*\'', "", text)
    assert "$" not in bare, "what is put in has to stand in double quotes: a path may have spaces"
    # A remark that is no comment would be handed to the program with the rest.
    assert "  " not in text


def test_each_command_is_in_the_table_of_those_tried_on_the_fleet_and_none_beside():
    told = {documented.command(code) for code in COMMANDS}
    listed = {text for its in TABLE.values() for text in its}

    assert told - listed == set(), "say in tests/fleet/documented_commands.yml where it is typed"
    assert listed - told == set(), "nobody is told to type these any longer"


def test_code_with_a_space_is_a_command_or_known_to_be_none():
    texts = {code.text for code in CODE if code.kind == "span" and " " in code.text}
    commands = {code.text for code in COMMANDS}

    unknown = {text for text in texts - commands - SAID - NAMES if not NO_COMMAND.fullmatch(text)}

    assert unknown == set()


def test_a_block_says_whether_it_is_of_commands_or_of_settings():
    assert [str(code) for code in CODE if code.kind not in ("sh", "yaml", "span")] == []


@pytest.mark.parametrize("place", [place for place in TABLE if place != "control"])
def test_a_role_of_the_host_installs_each_program(place):
    roles = OF_ALL.union(*(OF_GROUP[group] for group in GROUPS[place]))
    names = {program.rsplit("/", 1)[-1] for text in TABLE[place] for program in programs(text)} - EVERYWHERE

    for name in names:
        role, trace = OURS.get(name, (None, PACKAGES.get(name)))
        assert trace, f"no role is known to install {name}"
        pattern = re.compile(rf"(?<![\w-]){re.escape(trace)}")
        having = {each for each in ({role} if role else roles) if pattern.search(everything(f"roles/{each}"))}
        assert roles & having, f"no role of {place} installs {name} ({trace})"


def test_what_is_typed_on_the_control_machine_needs_nothing_but_what_it_has():
    names = {program.rsplit("/", 1)[-1] for text in TABLE["control"] for program in programs(text)}

    assert names - ON_CONTROL == set()


@pytest.mark.parametrize("text", [text for text in TABLE["control"] if text.startswith("ansible-playbook")])
def test_playbooks_their_options_and_variables_exist(text, deployed):
    arguments = text.replace("HOST", "gpu1").replace('"', "").split()
    if "$(python" in arguments:
        arguments = ["ansible-playbook", "site.yml"]
    cli = PlaybookCLI(arguments)
    cli.parse()
    for name in [each for each in words(text) if each.endswith(".yml")]:
        assert (REPOSITORY / name).is_file()
    for name in re.findall(r"-e (\w+)=", text):
        assert re.search(rf"\b{name}\b \| default", deployed), f"no playbook reads {name}"
    for tag in re.findall(r"--tags (\w+)", text):
        assert f"tags: {tag}" in everything("playbooks")


def test_a_command_for_the_hosts_leaves_the_control_machine_alone():
    inventory = InventoryManager(DataLoader(), sources=[str(REPOSITORY / "inventory/production/hosts.yml")])

    for text in TABLE["control"]:
        if text.startswith("ansible "):
            pattern = text.split()[1]
            assert {host.name for host in inventory.get_hosts(pattern)} - {"lb1", "gpu1", "gpu2", "ops1"} == set()


def test_settings_and_metrics_that_are_named_exist(deployed):
    known = deployed + (REPOSITORY / "docs/metrics.md").read_text()
    roles = "|".join(path.name for path in (REPOSITORY / "roles").iterdir())
    told = {name for code in CODE for name in re.findall(rf"\b(?:{roles}|secret)_[a-z0-9_]+\b", code.text)}

    assert len(told) > 40
    assert {name for name in told if not re.search(rf"\b{name}\b", known)} == set()


def test_playbooks_that_are_named_exist():
    told = {name for code in CODE for name in re.findall(r"playbooks/\w+\.yml", code.text)}

    assert len(told) > 10
    assert {name for name in told if not (REPOSITORY / name).is_file()} == set()


# Units of packages, as the roles have them.
UNIT = re.compile(r"(?:systemctl (?:\w[\w-]* )+|journalctl .*?-u )'?([\w@*-]+)")
PLACEHOLDERS = {"UNIT", "bedplate-backup@STEP"}


def test_units_that_are_named_exist(deployed):
    told = {unit for code in COMMANDS for unit in UNIT.findall(code.text)} - PLACEHOLDERS - {"is-system-running"}

    assert len(told) > 10
    for unit in told:
        stem = re.split(r"[@*]", unit)[0]
        assert re.search(rf"\b{re.escape(stem)}(@|\.service|\.timer|\b)", deployed), unit


def test_files_of_hosts_that_are_named_are_written_by_something(deployed):
    everywhere = {"/var", "/opt", "/sys/bus/pci/drivers/nvidia"}
    pattern = re.compile(r"(?<![\w.~:/*])/(?:etc|var|opt|run|usr|sys)[\w./-]*")
    told = {path.rstrip("/.") for code in CODE for path in pattern.findall(code.text)} - everywhere
    # Of a bundle, and of what the service writes, the folder is what a role makes.
    known = {re.sub(r"(?<=models)/digits.*|(?<=/var/log/bedplate)/\w+\.log", "", path) for path in told}

    assert len(known) > 10
    assert {path for path in known if path not in deployed} == set()


def test_alerts_that_runbooks_name_exist():
    rules = everything("templates/etc/prometheus/rules")
    told = set(re.findall(r"^## (\w+)$", (REPOSITORY / "docs/runbooks.md").read_text(), re.M))
    spans = {code.text for code in CODE if code.page == "runbooks.md"}
    told |= {text for text in spans if re.fullmatch(r"[A-Z][a-z]+([A-Z][a-z]+)+", text)}

    assert len(told) > 40
    assert {name for name in told if f"alert: {name}" not in rules} == set()


def test_pages_of_prometheus_are_those_that_its_packages_have():
    """Debian's and Ubuntu's packages have the classic pages alone; the new ones are not built."""
    texts = [(REPOSITORY / "docs" / name).read_text() for name in documented.PAGES]
    pages = {page for text in texts for page in re.findall(r"127\.0\.0\.1:9090(/\w+(?:/\w+)?)", text)}

    assert pages
    assert {page for page in pages if not re.fullmatch(r"/classic/(alerts|targets|graph|rules|status)", page)} == set()


def test_commands_that_a_run_tells_name_the_inventory_and_quote_it():
    """They are typed as they stand."""
    wrong = []
    for path in sorted(REPOSITORY.glob("roles/*/*/*.yml")):
        text = re.sub(r"^\s*#.*$", "", path.read_text(), flags=re.M)
        for start in re.finditer(r"ansible-(playbook|vault) ", text):
            first, *_ = re.findall(r"\{\{.*?\}\}", text[start.end() : start.end() + 60]) or [""]
            if "quote" not in first:
                wrong.append(f"{path.relative_to(REPOSITORY)}: {text[start.start() : start.start() + 80]}")

    assert wrong == []
