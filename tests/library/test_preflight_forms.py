"""Each setting has a form, and a value of another one is refused with the value, what is wanted, and what to write."""

import pytest

from tools.preflight import forms, settings
from tools.preflight.hosts import Host

RIGHT = [
    ("private_address", "10.0.0.1"),
    ("private_address", "192.168.0.10"),
    ("private_address", "203.0.113.7"),
    ("private_address", "127.0.0.1"),  # one host alone; settings.py refuses it where there are more
    ("bedplate_web_address", "0.0.0.0"),
    ("nginx_public_address", "203.0.113.1"),
    ("nginx_public_address", "2a00:1450::1"),
    ("nginx_server_name", "bedplate.test"),
    ("nginx_server_name", "xn--mller-kva.de"),
    ("nginx_server_name", "localhost"),
    ("nginx_server_name", "3.predict-1.example"),
    ("fleet_web", {"port": 8001, "count": 9, "hosts": ["inference"], "from": []}),
    ("fleet_ssh", {"port": 65535, "hosts": ["all"], "from": ["10.0.0.0/8"]}),
    ("bedplate_engine_memory_max", "4G"),
    ("bedplate_engine_memory_max", "80%"),
    ("bedplate_engine_memory_max", "infinity"),
    ("bedplate_web_instances", 4),
    ("bedplate_web_instances", "4"),  # by -e
    ("bedplate_engine_pin", "false"),
    ("prometheus_retention_size", "8GB"),
    ("prometheus_retention_time", "1d12h"),
    ("backup_directory", "/mnt/disk-2/backup"),
    ("bedplate_bundles_dir", "/home/me/my bundles"),  # rsync and Python take it as one
    ("bedplate_bundles", ["digits", "tones/2.1"]),
    ("nginx_certificate_file", ""),
    ("ansible_host", "gpu_1.internal"),
    ("ansible_host", "fe80::1%eth0"),
    ("ansible_port", 2222),
    ("ansible_user", "deploy"),
]
# What is written, and what the next step says.
WRONG = [
    ("private_address", "fd00::1", "IPv4 alone"),
    ("private_address", "::ffff:10.0.0.1", "Write 10.0.0.1"),
    ("private_address", "10.0.0.1/24", "10.0.0.1"),
    ("private_address", "10.0.0.01", "zeros in front"),
    ("private_address", "169.254.1.1", "not a link's"),
    ("private_address", "0.0.0.0", "other hosts reach"),
    ("private_address", "255.255.255.255", "other hosts reach"),
    ("private_address", "224.0.0.1", "other hosts reach"),
    ("private_address", "10.0.0.1 ", "four numbers"),
    ("private_address", "gpu1", "four numbers"),
    ("bedplate_web_address", "::", "IPv4 alone"),
    ("nginx_public_address", "[2a00::1]", "without brackets"),
    ("nginx_public_address", "203.0.113.1:443", "port"),
    ("nginx_server_name", "müller.de", "xn--mller-kva.de"),
    ("nginx_server_name", "straße.de", "IDNA"),
    ("nginx_server_name", "Predict.Example", "predict.example"),
    ("nginx_server_name", "*.example", "one name"),
    ("nginx_server_name", "predict.example.", "predict.example"),
    ("nginx_server_name", "predict_1.example", "no _"),
    ("nginx_server_name", "a b", "a-z"),
    ("nginx_server_name", 'a";', "a-z"),
    ("nginx_server_name", "a\nb", "a-z"),
    ("nginx_server_name", "a$b", "a-z"),
    ("nginx_server_name", "x" * 64, "63"),
    ("nginx_server_name", "a..b", "a-z"),
    ("nginx_server_name", "192.168.0.1", "nginx_public_address"),
    ("fleet_web", {"port": 0, "hosts": [], "from": []}, "from 1 to 65535"),
    ("fleet_web", {"port": 65531, "count": 9, "hosts": [], "from": []}, "`count`"),
    ("fleet_web", {"port": "http", "hosts": [], "from": []}, "from 1 to 65535"),
    ("fleet_web", 8001, "roles/fleet"),
    ("fleet_web", {"port": 8001, "hosts": "inference", "from": []}, "lists"),
    ("bedplate_engine_memory_max", "4 GB", "512M"),
    ("bedplate_engine_memory_max", "4GiB", "512M"),
    ("bedplate_engine_memory_max", "0", "512M"),
    ("bedplate_request_timeout_s", "30s", "digits"),
    ("bedplate_request_timeout_s", -1, "digits"),
    ("bedplate_request_timeout_s", True, "digits"),
    ("bedplate_request_timeout_s", "", "digits"),
    ("bedplate_optimize_accuracy_loss", "half", "digits"),
    ("bedplate_engine_pin", "on!", "true or false"),
    ("prometheus_retention_size", "8G", "8GB"),
    ("prometheus_retention_time", "15 days", "15d"),
    ("backup_directory", "backup", "whole path"),
    ("backup_directory", "/mnt/my disk", "without spaces"),
    ("backup_directory", "/mnt/100%", "%"),
    ("backup_directory", "/mnt/../etc", "/../"),
    ("backup_directory", "/", "no folder"),
    ("bedplate_bundles_dir", "bundles", "whole path"),
    ("bedplate_bundles", "digits", "a list"),
    ("bedplate_bundles", ["../digits"], "a list"),
    ("ansible_host", "10.0.0.1/24", "alone"),
    ("ansible_host", "deploy@gpu1", "ansible_user"),
    ("ansible_host", "gpu1:2222", "ansible_port"),
    ("ansible_port", 70000, "65535"),
    ("ansible_user", "de ploy", "user"),
]


def judge(setting, value):
    return list(forms.judge([Host("gpu1", ["inference"], {setting: value})]))


@pytest.mark.parametrize(("setting", "value"), RIGHT)
def test_a_form_that_works_is_taken(setting, value):
    assert judge(setting, value) == []


@pytest.mark.parametrize(("setting", "value", "said"), WRONG)
def test_another_form_is_refused_with_value_and_next_step(setting, value, said):
    [finding] = judge(setting, value)

    assert repr(value) in finding.found
    assert finding.wanted
    assert said in finding.next_step
    assert finding.setting == setting  # of which the report names the line


@pytest.mark.parametrize("name", ["gpu 1", "gpu'1", "gpu$1", "gpu%1", "-gpu", "gpu\n1", "größe", "g" * 64])
def test_a_host_whose_name_files_and_units_cannot_have_is_refused(name):
    [finding] = forms.judge([Host(name)])

    assert repr(name) in finding.found
    assert "hosts.yml" in finding.next_step


@pytest.mark.parametrize("name", ["gpu1", "GPU-1", "gpu_1", "gpu1.example"])
def test_names_of_hosts_that_work_are_taken(name):
    assert list(forms.judge([Host(name)])) == []


def test_hosts_that_disagree_on_a_port_are_told_since_each_computes_the_others_from_its_own():
    other = {"port": 2222, "hosts": ["lb", "inference", "data", "ops"], "from": ["all"]}
    hosts = [
        Host("gpu1", ["inference"], {"private_address": "10.0.0.1"}, size="x", sizes=["x"]),
        Host("ops1", ["ops"], {"private_address": "10.0.0.2", "fleet_ssh": other}, size="x", sizes=["x"]),
    ]

    [finding] = [each for each in settings.judge(hosts) if each.setting == "fleet_ssh"]

    assert "22" in finding.found
    assert "2222" in finding.found
    assert "group_vars/all.yml" in finding.next_step
