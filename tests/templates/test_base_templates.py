"""Files of the role base."""

from __future__ import annotations


def test_only_present_administrators_may_become_root(render):
    admins = [{"name": "ada", "keys": []}, {"name": "charles", "keys": [], "state": "absent"}]

    text = render("base", "etc/sudoers.d/bedplate-admins.j2", base_admins=admins)

    assert "ada ALL=(ALL:ALL) NOPASSWD: ALL" in text
    assert "charles" not in text


def test_time_servers_are_added_one_a_line(render):
    text = render("base", "etc/chrony/sources.d/bedplate.sources.j2", base_time_servers=["a.example", "b.example"])

    assert text.splitlines()[-2:] == ["server a.example iburst", "server b.example iburst"]


def test_sshd_lets_nobody_in_without_a_key(render):
    lines = render("base", "etc/ssh/sshd_config.d/00-bedplate.conf.j2").splitlines()

    assert {"PermitRootLogin no", "AuthenticationMethods publickey", "PasswordAuthentication no"} <= set(lines)
    assert "MaxAuthTries 4" in lines
