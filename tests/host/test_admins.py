"""The administrators that molecule/base/converge.yml names."""

from __future__ import annotations

testinfra_hosts = ["ssh://lb1"]


def test_an_administrator_has_a_key_and_becomes_root(host):
    assert "ada@laptop" in host.file("/home/ada/.ssh/authorized_keys").content_string
    assert host.check_output("runuser -u ada -- sudo -n id -u") == "0"


def test_an_administrator_has_no_password(host):
    assert host.check_output("passwd --status ada").split()[1] == "L"


def test_a_removed_administrator_is_gone(host):
    assert not host.user("charles").exists
    assert host.run("sudo -l -U charles").rc != 0
