#!/usr/bin/python
"""Ansible module: says in what a host falls short of what is wanted of it. Changes nothing."""

from __future__ import annotations

DOCUMENTATION = """
module: host_preflight
short_description: Looks for what would make a run fail, before the run
description:
  - Needs no root. Of sudo it asks whether it works, and which program holds a port.
  - Returns C(findings), each with C(check), C(found), C(wanted), C(next_step) and C(setting), the variable that says
    what is wanted or nothing; and C(seen), what the host is.
options:
  size:
    description: C(name), C(cores), C(memory_gb) and C(disk_gb), which are GB of 10^9 bytes.
    type: dict
    required: true
  disk_again_gb:
    description: What has to be free instead on a host that was built before; it has filled its disk itself.
    type: float
    required: true
  releases:
    description: Code names of releases that do.
    type: list
    elements: str
    required: true
  kernel:
    description: The oldest kernel that does.
    type: str
    required: true
  clock:
    description: The control machine's time. Unit is seconds since 1970.
    type: float
    required: true
  clock_difference_s:
    description: By how much the host's time may differ.
    type: float
    required: true
  services:
    description: By name, each with C(port), how many from there (C(count)), C(hosts), groups that run it, and C(units),
      patterns of systemd units that may hold the port already.
    type: dict
    required: true
  groups:
    description: The groups of this host.
    type: list
    elements: str
    required: true
  names:
    description: Host names that have to resolve, beside those of the package mirrors.
    type: list
    elements: str
    default: []
  address:
    description: The address of IPv4 on which its programs are to listen; empty asks nothing.
    type: str
    default: ""
  gpus:
    description: NVIDIA GPUs that engines are declared for; without it, engines follow from what is there.
    type: int
  driver_required:
    description: Whether a host with GPUs has to have its driver already.
    type: bool
    default: true
  gpu_generations:
    description: What PCI ids of GPUs mean, each with C(name), C(first) and C(last).
    type: list
    elements: dict
    default: []
  gpu_refused:
    description: By generation, why engines cannot use it.
    type: dict
    default: {}
  driver_refused:
    description: By release, why no driver would be installed there.
    type: dict
    default: {}
  root:
    description: Where the host's files are read. For tests.
    type: path
    default: /
"""

import fnmatch
import glob
import os
import platform
import pwd
import re
import socket
import subprocess
import time

from ansible.module_utils.basic import AnsibleModule

GB = 1e9
NVIDIA = "0x10de"
DISPLAYS = ("0x0300", "0x0302")  # PCI classes: VGA and 3D controllers
COMMAND_TIMEOUT_S = 20
# Written by the module host_units: here since the first run.
BUILT = "var/lib/host-units"


def finding(check, found, wanted, next_step, setting=None):
    return {"check": check, "found": found, "wanted": wanted, "next_step": next_step, "setting": setting}


def run(*command):
    """Exit status, output and complaints; a program that is not there has status 127."""
    try:
        done = subprocess.run(
            command, capture_output=True, check=False, stdin=subprocess.DEVNULL, timeout=COMMAND_TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return 127, "", str(error)
    return done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace").strip()


class Host:
    """What is read from the host's files, below `root`."""

    def __init__(self, root="/"):
        self.root = root

    def path(self, name):
        return os.path.join(self.root, name)

    def read(self, name):
        """Empty for a file that is not there."""
        try:
            with open(self.path(name), errors="replace") as file:
                return file.read()
        except OSError:
            return ""

    def mount_of(self, folder):
        """The mount that a folder is on, and its options."""
        mounts = [line.split() for line in self.read("proc/mounts").splitlines()]
        # The one mounted last hides the others.
        on = [each for each in mounts if len(each) > 3 and (folder + "/").startswith(each[1].rstrip("/") + "/")]
        if not on:
            return "/", []
        longest = max(on, key=lambda each: len(each[1].rstrip("/")))
        options = [each[3] for each in on if each[1] == longest[1]][-1]
        return longest[1], options.split(",")

    def find(self, pattern):
        return sorted(glob.glob(self.path(pattern)))

    @property
    def is_built(self):
        return bool(self.find(BUILT + "/*"))

    @property
    def cores(self):
        return len(re.findall(r"^processor\s*:", self.read("proc/cpuinfo"), re.MULTILINE))

    @property
    def memory_gb(self):
        found = re.search(r"^MemTotal:\s*(\d+) kB", self.read("proc/meminfo"), re.MULTILINE)
        return int(found[1]) * 1024 / GB if found else 0

    @property
    def free_gb(self):
        """Where releases, models and figures go; one disk is counted once."""
        disks = {}
        for name in ("opt", "var/lib"):
            path = self.path(name) if os.path.isdir(self.path(name)) else self.root
            disks[os.stat(path).st_dev] = os.statvfs(path)
        return sum(disk.f_bavail * disk.f_frsize for disk in disks.values()) / GB

    @property
    def release(self):
        found = re.search(r'^VERSION_CODENAME="?([\w-]+)', self.read("etc/os-release"), re.MULTILINE)
        return found[1] if found else ""

    @property
    def release_in_words(self):
        found = re.search(r'^PRETTY_NAME="?([^"\n]+)', self.read("etc/os-release"), re.MULTILINE)
        return f"{found[1]} ({self.release})" if found else "no /etc/os-release"

    @property
    def kernel(self):
        return self.read("proc/sys/kernel/osrelease").strip()

    @property
    def is_container(self):
        return os.path.exists(self.path("run/systemd/container"))

    @property
    def gpus(self):
        """PCI addresses; none in a container, which sees the bus of the machine that carries it."""
        found = []
        if self.is_container:
            return found
        for device in self.find("sys/bus/pci/devices/*"):
            what = [self.read(os.path.join(device, name)).strip() for name in ("vendor", "class")]
            if what[0] == NVIDIA and what[1].startswith(DISPLAYS):
                found.append(os.path.basename(device))
        return found

    def generation(self, gpu, generations):
        number = int(self.read(f"sys/bus/pci/devices/{gpu}/device").strip() or "0", 16)
        return next((each["name"] for each in generations if each["first"] <= number <= each["last"]), "unknown")

    @property
    def mirrors(self):
        """Names of the hosts that packages come from; of the proxies, where there are some."""
        configuration = "".join(self.read(path) for path in self.find("etc/apt/apt.conf.d/*"))
        proxies = re.findall(r'Proxy\s+"https?://(?:[^@"/]*@)?([^:/"]+)', configuration)
        sources = [*self.find("etc/apt/sources.list.d/*.list"), *self.find("etc/apt/sources.list.d/*.sources")]
        lines = [line for path in ["etc/apt/sources.list", *sources] for line in self.read(path).splitlines()]
        active = [line for line in lines if re.match(r"\s*(deb|URIs:)\s", line)]
        hosts = [host for line in active for host in re.findall(r"https?://(?:[^@\s/]*@)?([^:/\s]+)", line)]
        return sorted(set(proxies or hosts))


def look_at_size(host, size, disk_again_gb):
    larger = f"Use a larger host, or say that it is one of another size (preflight_sizes), now '{size['name']}'."
    seen = [("cores", host.cores, size["cores"], "cores"), ("memory", host.memory_gb, size["memory_gb"], "GB")]
    for check, has, wanted, unit in seen:
        if has < wanted:
            yield finding(check, f"{has:.3g} {unit}", f"{wanted:g} {unit}", larger, "preflight_size")
    wanted_gb = min(disk_again_gb, size["disk_gb"]) if host.is_built else size["disk_gb"]
    if host.free_gb < wanted_gb:
        step = "Free some." if host.is_built else larger
        found = f"{host.free_gb:.1f} GB free below /opt and /var/lib"
        yield finding("disk", found, f"{wanted_gb:g} GB", step, "preflight_size")


def look_at_mounts(host):
    """Programs of releases are run from /opt, compiled models loaded from /var/lib: not where a mount says noexec."""
    for folder in ("/opt", "/var/lib"):
        mount, options = host.mount_of(folder)
        if "noexec" in options:
            step = f"As root: mount -o remount,exec {mount}, and take noexec out of its line in /etc/fstab."
            yield finding("mount", f"{folder} is on {mount}, which is mounted noexec", f"{folder} with exec", step)


def look_at_address(address, addresses):
    """Whether the host has the address that its programs are to listen on."""
    if address and addresses and address not in addresses:
        found = f"private_address {address}, and the host has {', '.join(addresses)}"
        step = "Write the one that the other hosts reach, not that of a router or load balancer before it."
        yield finding("address", found, "an address of the host", step, "private_address")


def own_addresses():
    """Its addresses of IPv4; none where `ip` does not say."""
    return re.findall(r"^\s*inet (\d+(?:\.\d+){3})", run("ip", "-4", "address", "show")[1], re.MULTILINE)


def look_at_release(host, releases):
    if host.release not in releases:
        wanted = f"one of {', '.join(releases)} for what runs there"
        step = "Install one of them, or take the host out of its groups in hosts.yml."
        yield finding("release", host.release_in_words, wanted, step)


def look_at_kernel(host, oldest):
    numbers = [[int(part) for part in re.findall(r"\d+", text)[:2]] for text in (host.kernel, oldest)]
    if numbers[0] < numbers[1]:
        step = "Install the release's own kernel and boot it."
        yield finding("kernel", host.kernel, f"{oldest} or later", step, "preflight_kernel")
    # An upgrade has taken them away. A container has none of its own, and some kernels need none.
    elif not host.is_container and host.find("lib/modules/*") and not host.find(f"lib/modules/{host.kernel}"):
        found = f"{host.kernel} runs, and its modules are gone from /lib/modules"
        yield finding("kernel", found, "a kernel that can load modules", "Boot the kernel that is installed.")


def look_at_time(clock, allowed_s, now):
    if abs(now - clock) > allowed_s:
        found = f"{abs(now - clock):.0f} s {'ahead of' if now > clock else 'behind'} the control machine"
        step = "Set the clock of whichever is wrong: timedatectl set-ntp true, or timedatectl set-time"
        yield finding("time", found, f"at most {allowed_s:g} s", step, "preflight_time_difference_s")


def look_at_ports(services, groups, listeners):
    for name, service in services.items():
        if not set(service["hosts"]) & set(groups):
            continue
        for port in range(int(service["port"]), int(service["port"]) + int(service.get("count", 1))):
            holders = [each for each in listeners.get(port, []) if not _is_one_of(each["unit"], service["units"])]
            # One program, however many addresses it listens on.
            for words in sorted({_in_words(each) for each in holders}):
                wanted = f"{port} free for {name}"
                step = f"Stop {words} and disable it, or move {name} to another port."
                yield finding("port", f"{words} listens on {port}", wanted, step, f"fleet_{name}")


def look_at_ssh(service, listeners):
    """Its port is said, not set: the firewall opens it."""
    if int(service["port"]) not in listeners:
        step = "Write the port on which sshd of this host listens; the firewall will open no other."
        found = f"nobody listens on {service['port']}"
        yield finding("port", found, f"sshd on {service['port']}", step, "fleet_ssh")


def listening():
    """By port, who listens there: `program`, `pid`, `unit`. Without root only that somebody does."""
    command = ["ss", "--no-header", "--listening", "--tcp", "--numeric", "--processes"]
    status, lines, _ = run("sudo", "-n", *command)
    if status != 0:
        status, lines, said = run(*command)
        if status != 0:
            raise RuntimeError(f"{' '.join(command)} ended with status {status}: {said}; install iproute2")
    sockets = _sockets()
    found = {}
    for line in lines.splitlines():
        address = line.split()[3]
        port = int(address.rsplit(":", 1)[1])
        held = re.findall(r'\("([^"]*)",pid=(\d+)', line)
        who = [{"program": name, "pid": int(pid), "unit": unit_of(int(pid), port, sockets)} for name, pid in held]
        found.setdefault(port, []).extend(who or [{"program": "", "pid": 0, "unit": ""}])
    return found


def _sockets():
    """By port, the unit of each socket that systemd holds."""
    lines = run("systemctl", "list-sockets", "--plain", "--no-legend")[1].splitlines()
    pairs = [line.split()[:2] for line in lines if len(line.split()) > 1]
    return {int(address.rsplit(":", 1)[1]): unit for address, unit in pairs if re.search(r":\d+$", address)}


def unit_of(pid, port, sockets):
    if pid == 1:
        return sockets.get(port, "")
    try:
        with open(f"/proc/{pid}/cgroup") as file:
            units = re.findall(r"/([^/\n]+\.(?:service|scope))", file.read())
    except OSError:
        return ""
    return units[-1] if units else ""


def _is_one_of(unit, patterns):
    return any(fnmatch.fnmatchcase(unit, pattern) for pattern in patterns)


def _in_words(holder):
    if not holder["pid"]:
        return "an unknown program"
    return f"{holder['program']} ({holder['unit'] or 'pid ' + str(holder['pid'])})"


def look_at_names(host, names):
    for name in [*host.mirrors, *(name for name in names if name not in host.mirrors)]:
        try:
            socket.getaddrinfo(name, None)
        except OSError as error:
            step = "Mend the resolver (/etc/resolv.conf, resolvectl status)"
            step += ", or correct /etc/apt/sources.list*." if name in host.mirrors else "."
            setting = None if name in host.mirrors else "preflight_names"
            yield finding("name", f"{name} does not resolve: {error.strerror}", "an address", step, setting)


def look_at_gpus(host, wanted):
    """GPUs matter where engines are declared for them or follow from them, and their driver where there are some."""
    declared = wanted["gpus"]
    if declared == 0:
        return
    if declared and len(host.gpus) < declared:
        found = f"{len(host.gpus)} NVIDIA GPUs ({', '.join(host.gpus) or 'none'})"
        step = "Declare engines for what is there: cpu0 without a GPU, gpu0, gpu1 … for each."
        yield finding("gpu", found, f"{declared}, one for each engine gpuN", step, "bedplate_engines")
    for gpu in host.gpus:
        name = host.generation(gpu, wanted["gpu_generations"])
        if name in wanted["gpu_refused"]:
            step = f"{wanted['gpu_refused'][name]}. Take it out, or let its host compute on processors."
            yield finding("gpu", f"{gpu} is {name}", "a GPU that engines can use", step, "bedplate_engines")
    if host.gpus:
        yield from look_at_driver(host, wanted["driver_required"], wanted["driver_refused"].get(host.release))


def look_at_driver(host, required, refused):
    loaded = re.search(r"Module\s+(?:for \S+\s+)?(\d+(?:\.\d+)+)", host.read("proc/driver/nvidia/version"))
    libraries = [path.split(".so.")[1] for path in host.find("usr/lib/x86_64-linux-gnu/libnvidia-ml.so.*.*")]
    kernels = [
        path.split("/")[-2] for path in host.find("lib/modules/*/modules.dep") if "/nvidia.ko" in host.read(path)
    ]
    if loaded:
        if loaded[1] not in libraries:
            found = f"driver {loaded[1]} in the kernel, libraries {', '.join(libraries) or 'none'}"
            yield finding("driver", found, "the same version of both", "Boot anew, or install the libraries' package.")
    elif host.kernel in kernels:
        step = "Ask why: sudo modprobe nvidia; sudo dmesg | grep -i nvidia (Secure Boot refuses unsigned modules)"
        yield finding("driver", f"installed for {host.kernel}, not loaded", "a loaded driver", step)
    elif kernels:
        step = f"Boot one of these, or install linux-modules-nvidia-*-{host.kernel}."
        yield finding("driver", f"modules for {', '.join(kernels)}", f"modules for {host.kernel}, which runs", step)
    elif refused:
        yield finding("driver", "none", "one that the role nvidia can install", f"{refused}.", "nvidia_packages")
    elif required:
        step = "Let the role nvidia install it (nvidia_install: true), or install it yourself."
        yield finding("driver", "none", "NVIDIA's driver", step, "preflight_driver_required")


def look_at_login(host, name):
    """Whether who came may become root, and can come again."""
    user = pwd.getpwnam(name)
    if user.pw_uid == 0:
        step = "Log in as a user with a key and sudo."
        yield finding("login", "root", "a user; sshd will refuse root after the first run", step, "ansible_user")
        return
    yield from look_at_sudo(user.pw_name)
    keys = host.read(os.path.join(user.pw_dir, ".ssh/authorized_keys").lstrip("/"))
    if not re.search(r"^[^#]*(ssh-|ecdsa-)", keys, re.MULTILINE):
        step = f"Put your public key there: ssh-copy-id {user.pw_name}@…"
        wanted = "a key; sshd will take nothing else after the first run"
        yield finding("login", f"no key in {user.pw_dir}/.ssh/authorized_keys", wanted, step)
    if not re.search(r"^\s*Include\s+/etc/ssh/sshd_config\.d/\*\.conf", host.read("etc/ssh/sshd_config"), re.M | re.I):
        wanted = "'Include /etc/ssh/sshd_config.d/*.conf' in /etc/ssh/sshd_config"
        yield finding("login", "sshd reads no drop-ins", wanted, "Put the line at the top of the file.")


def look_at_sudo(user):
    status, _, said = run("sudo", "-n", "true")
    if status == 0:
        return
    version = (run("sudo", "--version")[1].splitlines() or ["no sudo"])[0]
    found = f"{version}: {said.splitlines()[-1] if said else f'status {status}'}"
    # sudo-rs takes none from Ansible at all.
    wanted = f"sudo without a password for {user}"
    step = f"As root: echo '{user} ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/{user}; or log in as another user."
    yield finding("sudo", found, wanted, step, "ansible_user")


def login_user():
    """Who came, also where the inventory makes everything run as root."""
    return os.environ.get("SUDO_USER") or pwd.getpwuid(os.getuid()).pw_name


def look(wanted, user):
    """Everything at once: the findings in the order of this file."""
    host = Host(wanted["root"])
    services = dict(wanted["services"])
    ssh = services.pop("ssh", None)
    listeners = listening()
    return [
        *look_at_size(host, wanted["size"], wanted["disk_again_gb"]),
        *look_at_mounts(host),
        *look_at_address(wanted["address"], own_addresses()),
        *look_at_release(host, wanted["releases"]),
        *look_at_kernel(host, wanted["kernel"]),
        *look_at_time(wanted["clock"], wanted["clock_difference_s"], time.time()),
        *(look_at_ssh(ssh, listeners) if ssh else []),
        *look_at_ports(services, wanted["groups"], listeners),
        *look_at_names(host, wanted["names"]),
        *look_at_gpus(host, wanted),
        *look_at_login(host, user),
    ]


def describe(host):
    return {
        "cores": host.cores,
        "memory_gb": round(host.memory_gb, 1),
        "free_gb": round(host.free_gb, 1),
        "release": host.release,
        "kernel": host.kernel,
        "gpus": host.gpus,
        "python": ".".join(platform.python_version_tuple()[:2]),
        "machine": platform.machine(),
        "is_built": host.is_built,
    }


def main():
    module = AnsibleModule(
        argument_spec={
            "size": {"type": "dict", "required": True},
            "disk_again_gb": {"type": "float", "required": True},
            "releases": {"type": "list", "elements": "str", "required": True},
            "kernel": {"type": "str", "required": True},
            "clock": {"type": "float", "required": True},
            "clock_difference_s": {"type": "float", "required": True},
            "services": {"type": "dict", "required": True},
            "groups": {"type": "list", "elements": "str", "required": True},
            "names": {"type": "list", "elements": "str", "default": []},
            "address": {"type": "str", "default": ""},
            "gpus": {"type": "int"},
            "driver_required": {"type": "bool", "default": True},
            "gpu_generations": {"type": "list", "elements": "dict", "default": []},
            "gpu_refused": {"type": "dict", "default": {}},
            "driver_refused": {"type": "dict", "default": {}},
            "root": {"type": "path", "default": "/"},
        },
        supports_check_mode=True,
    )
    try:
        findings = look(module.params, login_user())
    except RuntimeError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, findings=findings, seen=describe(Host(module.params["root"])))


if __name__ == "__main__":
    main()
