"""The administrators that molecule/base/converge.yml names."""

from __future__ import annotations

testinfra_hosts = ["ssh://lb1"]


def test_an_administrator_has_the_declared_key_alone_and_becomes_root(host):
    keys = host.file("/home/ada/.ssh/authorized_keys").content_string.splitlines()

    assert [key.split()[-1] for key in keys] == ["ada@laptop"]
    assert host.check_output("runuser -u ada -- sudo -n id -u") == "0"


def test_an_administrator_has_no_password(host):
    assert host.check_output("passwd --status ada").split()[1] == "L"


def test_a_removed_administrator_is_gone(host):
    assert not host.user("charles").exists
    # sudo itself says nothing of somebody who has no account.
    assert "charles" not in host.check_output("cat /etc/sudoers /etc/sudoers.d/*")
