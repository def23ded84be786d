"""What a bare host consists of, and where the suites differ."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

DEFAULT = "bookworm"

# No more than Ansible, sshd and systemd need: what a service needs, its role installs.
PACKAGES = (
    "ca-certificates",
    "dbus",
    "iproute2",
    "openssh-server",
    "procps",
    "python3",
    "python3-apt",
    "sudo",
    "systemd",
    "systemd-sysv",
    "udev",
)

# Run by mmdebstrap in the finished root; "$1" is the root. What must differ between hosts is removed.
CUSTOMIZE = (
    'chroot "$1" useradd --create-home --shell /bin/bash --password "*" deploy',
    'echo "deploy ALL=(ALL:ALL) NOPASSWD: ALL" > "$1/etc/sudoers.d/deploy" && chmod 0440 "$1/etc/sudoers.d/deploy"',
    'rm -f "$1"/etc/ssh/ssh_host_* "$1/etc/machine-id" "$1/var/lib/dbus/machine-id" "$1/etc/resolv.conf"',
)


@dataclass(frozen=True)
class Suite:
    name: str
    components: str
    keyring: str
    keyring_package: str
    ssh_unit: str

    def recipe_hash(self, mirror: str) -> str:
        """Another recipe is another root: changing this file never leaves hosts on an old one."""
        return hashlib.sha256(repr((self, PACKAGES, CUSTOMIZE, mirror)).encode()).hexdigest()[:8]


def _debian(name: str) -> Suite:
    return Suite(
        name, "main", "/usr/share/keyrings/debian-archive-keyring.gpg", "debian-archive-keyring", "ssh.service"
    )


def _ubuntu(name: str, ssh_unit: str) -> Suite:
    keyring = "/usr/share/keyrings/ubuntu-archive-keyring.gpg"
    return Suite(name, "main,universe", keyring, "ubuntu-keyring (on Debian ubuntu-archive-keyring)", ssh_unit)


SUITES = {
    suite.name: suite
    for suite in (
        _debian("bullseye"),
        _debian("bookworm"),
        _debian("trixie"),
        _ubuntu("jammy", "ssh.service"),
        # From 24.04 on systemd holds port 22 and starts sshd at the first connection.
        _ubuntu("noble", "ssh.socket"),
        _ubuntu("resolute", "ssh.socket"),
    )
}
