"""The judgement, the table and the JSON of playbooks/preflight.yml."""

import json
import subprocess
import sys

import pytest

from tools.deployment import ROOT

VAULT = f"{sys.prefix}/bin/ansible-vault"
CERTIFICATE = (
    "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days {days} -subj /CN=own"
    " -addext subjectAltName=DNS:{name} -keyout {folder}/own.key -out {folder}/own.crt"
)
SEEN = {
    "cores": 8,
    "memory_gb": 33.5,
    "free_gb": 200.0,
    "release": "noble",
    "kernel": "6.8.0",
    "gpus": [],
    "python": "3.12",
    "machine": "x86_64",
    "is_built": False,
}
RESULT = {"size": "small", "sizes": ["small"], "seen": SEEN, "findings": []}
GROUPS = {"lb1": ["lb"], "gpu1": ["inference"], "gpu2": ["inference"], "ops1": ["data", "ops"]}
LONG = "x" * 43


@pytest.fixture
def inventory(tmp_path):
    """A directory with one bundle for the fleet."""
    (tmp_path / "bundles/digits/1").mkdir(parents=True)
    (tmp_path / "bundles/digits/1/SHA256SUMS").write_text("")
    (tmp_path / "group_vars").mkdir()
    return tmp_path


@pytest.fixture
def judge(inventory):
    """judge({host: {setting: value}}, …) → findings by host of a fleet that has none otherwise."""

    def judge(settings=None, seen=None, hosts=GROUPS, **more):
        lines = []
        for number, (host, groups) in enumerate(hosts.items(), 1):
            own = {"private_address": f"192.0.2.{number}"}
            if "inference" in groups:
                own |= {"bedplate_bundles": ["digits"], "bedplate_bundles_dir": str(inventory / "bundles")}
            own |= (settings or {}).get(host, {})
            result = RESULT | {"groups": groups, "settings": own, "seen": SEEN | (seen or {}).get(host, {})}
            lines.append({"host": host, "result": result | more.get(host, {}), "error": ""})
        return report(lines, inventory)["found"]

    return judge


def report(lines, inventory, *options):
    target = inventory / "out/report.json"
    command = [sys.executable, "-m", "tools.preflight", "--inventory", inventory, "--report", target, *options]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    done = subprocess.run(command, cwd=ROOT, input=text, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stderr
    document = json.loads(target.read_text())
    assert document["ok"] == (done.returncode == 0)
    found = {name: host["findings"] for name, host in document["hosts"].items() if not host["ok"]}
    return {"document": document, "table": done.stdout, "found": found}


def test_a_fleet_without_fault_has_no_findings(judge):
    assert judge() == {}


def test_an_empty_fleet_is_not_ok(inventory):
    assert not report([], inventory)["document"]["ok"]


def test_a_host_that_was_not_reached_is_a_finding_among_the_others(inventory):
    result = RESULT | {"groups": [], "settings": {"private_address": "192.0.2.1"}}
    lines = [
        {"host": "lb1", "result": result, "error": ""},
        {"host": "gpu1", "result": None, "error": "No route to host"},
    ]

    told = report(lines, inventory)

    assert list(told["found"]) == ["gpu1"]
    assert "gpu1         BAD  host: No route to host" in told["table"]
    assert told["table"].startswith("lb1          ok   8 cores")


def test_what_is_doubtful_is_told_and_keeps_nobody_from_a_run(inventory):
    settings = {"private_address": "192.0.2.1", "backup_target": "directory"}
    lines = [{"host": "ops1", "result": RESULT | {"groups": ["ops"], "settings": settings}, "error": ""}]

    told = report(lines, inventory)

    assert told["document"]["ok"]
    [warning] = told["document"]["hosts"]["ops1"]["warnings"]
    assert list(warning) == ["check", "found", "wanted", "next_step", "edit"]
    assert "ops1         warn backup: backups lie on the host itself, in /srv/bedplate-backup" in told["table"]


@pytest.mark.parametrize("names", [("gpu.1", "gpu-1"), ("GPU1", "API1"), ("GPU1", "OPS1")])
def test_hosts_whose_names_are_the_same_at_the_store_are_refused_with_the_line_to_edit(judge, inventory, names):
    (inventory / "hosts.yml").write_text("all:\n  hosts:\n" + "".join(f"    {name}: {{}}\n" for name in names))

    found = judge(hosts={name: ["data"] for name in names})

    assert set(found) == set(names)
    for number, (name, other) in enumerate((names, names[::-1]), 3):
        [finding] = found[name]
        assert finding["found"].endswith(f", as for {other}")
        assert finding["edit"] == f"{name} in {inventory}/hosts.yml:{number}"


def test_a_name_that_is_too_long_for_the_store_is_refused(judge):
    fits, long = "a" * 25, "b" * 26

    found = judge(hosts={fits: ["data"], long: ["data"]})

    assert list(found) == [long]
    assert "at most 31 characters; this has 32" in found[long][0]["wanted"]


def test_no_balancers_certificate_takes_the_place_of_the_authoritys_or_anothers(judge):
    found = judge(hosts={"ca": ["lb"], "lb1": ["lb"], "Lb1": ["lb"], "lb2": ["lb"]})

    assert set(found) == {"ca", "lb1", "Lb1"}
    assert "as for the authority" in found["ca"][0]["found"]


@pytest.mark.parametrize("engines", [["cpu0", "cpu00"], ["gpu1", "gpu01"]])
def test_one_device_has_one_name(judge, engines):
    [finding] = judge({"gpu1": {"bedplate_engines": engines}}, {"gpu1": {"gpus": ["a", "b"]}})["gpu1"]

    assert finding["next_step"].startswith("Name each device once")


def test_what_is_reserved_for_examples_is_a_finding_with_its_lines(judge, inventory):
    (inventory / "group_vars/lb.yml").write_text("a: 1\nnginx_server_name: predict.example.com\nb: [2001:db8::1]\n")

    [finding] = judge()["localhost"]

    assert finding["found"] == "predict.example.com, 2001:db8::1"
    assert finding["edit"] == f"{inventory}/group_vars/lb.yml:2, 3"


# host, its settings, the variable that is to be edited
CONTRADICTIONS = [
    ("lb1", {"private_address": None}, "private_address"),
    ("lb1", {"private_address": "lb1.example.org"}, "private_address"),
    ("lb1", {"private_address": "127.0.0.1"}, "private_address"),
    ("gpu1", {"bedplate_engines": ["cpu0", "cpu0"]}, "bedplate_engines"),
    ("gpu1", {"bedplate_engines": ["cuda0"]}, "bedplate_engines"),
    ("gpu1", {"bedplate_engines": ["cpu0", "cpu1"], "bedplate_engine_threads": 5}, "bedplate_engine_threads"),
    ("gpu1", {"bedplate_web_instances": 10}, "bedplate_web_instances"),
    ("gpu1", {"bedplate_web_instances": "10"}, "bedplate_web_instances"),
    ("gpu1", {"bedplate_web_address": "127.0.0.1"}, "bedplate_web_address"),
    ("gpu1", {"bedplate_models_memory_mb": 8000}, "bedplate_models_memory_mb"),
    ("gpu1", {"bedplate_bundles": []}, "bedplate_bundles"),
    ("gpu1", {"bedplate_bundles": ["digits/2"]}, "bedplate_bundles"),
    ("lb1", {"nginx_certificate_file": "/x"}, "nginx_certificate_key_file"),
    ("lb1", {"nginx_certificate_renew_days": 397}, "nginx_certificate_renew_days"),
    ("lb1", {"nginx_hsts_s": 60}, "nginx_hsts_s"),
    ("ops1", {"redis_cache_max_memory_mb": 30000}, "redis_cache_max_memory_mb"),
]  # fmt: skip


@pytest.mark.parametrize(("host", "settings", "variable"), CONTRADICTIONS)
def test_a_contradiction_is_one_finding_that_names_what_to_edit(judge, host, settings, variable):
    found = judge({host: settings})

    assert list(found) == [host]
    [finding] = found[host]
    assert list(finding) == ["check", "found", "wanted", "next_step", "edit"]
    assert finding["edit"].startswith(f"{variable} in ")


def test_one_port_for_two_services_is_told_on_each_host_that_has_both(judge):
    ports = {
        "fleet_web": {"port": 9181, "count": 9, "hosts": ["inference"], "from": []},
        "fleet_bedplate_metrics": {"port": 9182, "hosts": ["inference"], "from": []},
    }

    found = judge(dict.fromkeys(GROUPS, ports))

    assert list(found) == ["gpu1", "gpu2"]
    assert found["gpu1"][0]["edit"].startswith("fleet_bedplate_metrics in ")


def test_a_damaged_bundle_is_told_once_for_the_hosts_that_share_it(judge, inventory):
    (inventory / "bundles/digits/1/bundle.yaml").write_text("not in SHA256SUMS")

    found = judge()

    assert list(found) == ["gpu1"]
    [finding] = found["gpu1"]
    assert "bundle.yaml: is not listed in SHA256SUMS" in finding["found"]
    assert finding["edit"].startswith("bedplate_bundles in ")


def test_a_pool_that_nobody_pins_may_be_larger_than_the_cores(judge):
    assert judge({"gpu1": {"bedplate_engine_threads": 9, "bedplate_engine_pin": False}}) == {}


def test_two_hosts_with_one_address_are_both_told(judge):
    assert list(judge({"gpu2": {"private_address": "192.0.2.2"}})) == ["gpu1", "gpu2"]


def test_hosts_that_disagree_where_nginx_has_one_limit_are_told_of(judge):
    [finding] = judge({"gpu2": {"bedplate_request_timeout_s": 60}})["localhost"]

    assert finding["found"] == "bedplate_request_timeout_s is 30 and 60"


@pytest.mark.parametrize("seen", [{"python": "3.10"}, {"machine": "aarch64"}])
def test_an_inference_host_that_no_wheels_fit_is_refused(judge, seen):
    assert [one["check"] for one in judge(seen={"gpu1": seen})["gpu1"]] == ["wheelhouse"]
    assert judge(seen={"lb1": seen}) == {}


def test_a_size_that_nobody_knows_is_told_with_those_there_are(judge):
    [finding] = judge(gpu1={"size": "tiny"})["gpu1"]

    assert (finding["found"], finding["wanted"]) == ("preflight_size 'tiny'", "one of small")


# The file that sets it, its text, and where the line is.
OF_TWO_HOSTS = "inference:\n  hosts:\n    gpu2:\n      bedplate_engines: [y]\n    gpu1:\n      bedplate_engines: [x]\n"
PLACES = [
    ("hosts.yml", OF_TWO_HOSTS, ":6"),
    ("hosts.yml", "inference:\n  hosts:\n    gpu1:\n  vars:\n    bedplate_engines: [x]\n", ":5"),
    ("host_vars/gpu1.yml", "# one\nbedplate_engines: [x]\n", ":2"),
    ("group_vars/inference.yml", "bedplate_engine_pin: false\nbedplate_engines: [x]\n", ":2"),
    ("group_vars/all/engines.yml", "---\nbedplate_engines: [x]\n", ":2"),
    ("group_vars/inference.yml", "# bedplate_engines: [x]\n", " (a new line)"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "text", "line"), PLACES)
def test_a_finding_names_the_line_that_sets_it(judge, inventory, name, text, line):
    (inventory / name).parent.mkdir(parents=True, exist_ok=True)
    (inventory / name).write_text(text)

    [finding] = judge({"gpu1": {"bedplate_engines": ["x"]}})["gpu1"]

    assert finding["edit"] == f"bedplate_engines in {inventory / name}{line}"


@pytest.fixture
def secrets(inventory):
    """secrets(text) → writes them vaulted, and returns the options that open them."""

    def secrets(text):
        (inventory / "password").write_text("opens")
        (inventory / "secrets.yml").write_text(text)
        options = [f"--vault-password-file={inventory}/password", "--encrypt-vault-id=default"]
        subprocess.run([VAULT, "encrypt", *options, inventory / "secrets.yml"], check=True, capture_output=True)
        return ["--vault-password-file", f"{inventory}/password"]

    return secrets


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (f"secret_api_key: {LONG}\nsecret_alert_mail_password: short\n", []),
        (f"secret_api_key: changeme-{LONG}\n", ["secret_api_key is too short or a placeholder"]),
        ("secret_api_key: S3CR3T\n", ["secret_api_key is too short or a placeholder"]),
    ],
)
def test_secrets_are_neither_placeholders_nor_shown(inventory, secrets, text, found):
    lines = [{"host": "x", "result": None, "error": "away"}]

    told = report(lines, inventory, *secrets(text))

    assert [one["found"] for one in told["found"].get("localhost", [])] == found
    assert "S3CR3T" not in told["table"] + json.dumps(told["document"])


def test_secrets_that_do_not_open_or_lie_open_are_refused(inventory, secrets):
    lines = [{"host": "x", "result": None, "error": "away"}]
    options = secrets(f"secret_api_key: {LONG}\n")
    (inventory / "password").write_text("other")

    [closed] = report(lines, inventory, *options)["found"]["localhost"]
    (inventory / "secrets.yml").write_text(f"secret_api_key: {LONG}\n")
    [in_the_clear] = report(lines, inventory, *options)["found"]["localhost"]

    assert "does not open" in closed["found"]
    assert "in the clear" in in_the_clear["found"]


def test_an_authority_without_its_passphrase_is_told_of(judge, inventory):
    (inventory / "authority").mkdir()
    (inventory / "authority/ca.key").write_text("")

    assert [one["check"] for one in judge()["localhost"]] == ["secrets"]


@pytest.mark.parametrize(
    ("days", "name", "said"),
    [
        (90, "api.example.org", None),
        (90, "*.example.org", None),
        (3, "api.example.org", "3 days left"),
        (90, "api.example.net", "for api.example.net"),
    ],
)
def test_a_certificate_of_ones_own_is_for_the_name_and_good_for_a_while(judge, inventory, days, name, said):
    subprocess.run(CERTIFICATE.format(days=days, name=name, folder=inventory).split(), check=True, capture_output=True)
    own = {
        "nginx_server_name": "api.example.org",
        "nginx_certificate_file": f"{inventory}/own.crt",
        "nginx_certificate_key_file": f"{inventory}/own.key",
    }

    found = judge({"lb1": own, "ops1": {"prometheus_probe_authority": ""}})

    assert (said in str(found["lb1"])) if said else found == {}


def test_a_key_of_another_certificate_is_refused(judge, inventory):
    make = CERTIFICATE.format(days=90, name="bedplate.test", folder=inventory).split()
    subprocess.run(make, check=True, capture_output=True)
    (inventory / "own.crt").rename(inventory / "first.crt")
    subprocess.run(make, check=True, capture_output=True)
    own = {"nginx_certificate_file": f"{inventory}/first.crt", "nginx_certificate_key_file": f"{inventory}/own.key"}

    [finding] = judge({"lb1": own, "ops1": {"prometheus_probe_authority": ""}})["lb1"]

    assert "is of another one" in finding["found"]


def test_probes_that_trust_another_authority_than_signed_are_told_of(judge, inventory):
    make = CERTIFICATE.format(days=90, name="bedplate.test", folder=inventory).split()
    subprocess.run(make, check=True, capture_output=True)
    own = {"nginx_certificate_file": f"{inventory}/own.crt", "nginx_certificate_key_file": f"{inventory}/own.key"}

    [finding] = judge({"lb1": own})["localhost"]

    assert "prometheus_probe_authority" in finding["edit"]


def test_an_old_authority_is_told_of(judge, inventory):
    (inventory / "authority").mkdir()
    make = CERTIFICATE.format(days=3, name="x", folder=inventory / "authority").split()
    subprocess.run(make, check=True, capture_output=True)
    (inventory / "authority/own.crt").rename(inventory / "authority/ca.crt")

    [finding] = judge()["localhost"]

    assert finding["check"] == "certificate"


OLD_HOSTS = """\
all:
  hosts:
    gpu: {}
  children:
    lb:
      hosts: {lb1: {}}
    gpu:
      hosts:
        gpu1:
        gpu:
"""


@pytest.mark.parametrize(
    ("file", "text", "edit"),
    [
        ("hosts.yml", OLD_HOSTS, "{file}:7"),
        ("hosts.yml", 'all:\n  children:\n    "gpu": {hosts: {gpu1: {}}}\n', "{file}:3"),
        ("group_vars/all.yml", "a: 1\nfleet_redis_cache: {port: 1, hosts: [data], from: [lb, gpu]}\n", "{file}:2"),
        ("group_vars/all.yml", "fleet_web:\n  hosts:\n    - gpu\n", "{file}:3"),
        ("group_vars/ops.yml", 'x: "{{ groups[\'gpu\'] }}"\ny: "{{ groups.gpu }}"\n', "{file}:1, 2"),
        ("group_vars/gpu.yml", "bedplate_bundles: [digits]\n", "{file}"),
    ],
)
def test_the_old_name_of_the_group_is_refused_with_the_file_and_lines_to_edit(judge, inventory, file, text, edit):
    (inventory / file).write_text(text)

    [finding] = judge()["localhost"]

    assert (finding["check"], finding["found"]) == ("group", "the group 'gpu'")
    assert "inference" in finding["next_step"]
    assert finding["edit"] == edit.format(file=inventory / file)


def test_a_host_of_the_old_group_is_refused_where_no_file_names_it(judge):
    [finding] = judge(hosts=GROUPS | {"gpu2": ["gpu", "lb"]})["localhost"]

    assert finding["check"] == "group"


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("hosts.yml", "all:\n  hosts:\n    gpu: {}\n  children:\n    inference:\n      hosts: {gpu: {}}\n"),
        ("group_vars/inference.yml", "# once [gpu]\nbedplate_engines: [gpu0, gpu1]\nname: gpu\n"),
    ],
)
def test_hosts_and_devices_may_be_called_by_it(judge, inventory, file, text):
    (inventory / file).write_text(text)

    assert judge() == {}
