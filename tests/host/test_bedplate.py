"""An inference host after the role bedplate: what runs, what answers, who may touch what."""

import base64
import contextlib
import json
import time

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

testinfra_hosts = ["ssh://gpu1"]

ENGINE = "bedplate-engine@cpu0.service"
WEBS = ["bedplate-web@1.service", "bedplate-web@2.service"]
SOCKETS = ["bedplate-web@1.socket", "bedplate-web@2.socket"]
# Unattended return of a killed engine.
ENGINE_BACK_S = 10
# A stop with nothing in flight.
DRAINED_S = 10

GET = """
import json, sys, urllib.error, urllib.request
try:
    answer = urllib.request.urlopen(sys.argv[1], timeout=20)
except urllib.error.HTTPError as error:
    answer = error
print(json.dumps({"status": answer.status, "headers": {k.lower(): v for k, v in answer.headers.items()}}))
"""


def address(host, socket):
    # systemd says "10.0.0.1:8001 (Stream)".
    return show(host, socket, "Listen").split()[0]


def get(host, socket, route):
    return json.loads(host.check_output("python3 -c %s %s", GET, f"http://{address(host, socket)}{route}"))


def show(host, unit, name):
    return host.check_output(f"systemctl show --property={name} --value {unit}")


def wait_until(condition, within_s):
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline


def wait_until_ready(host, within_s):
    wait_until(lambda: get(host, SOCKETS[0], "/health/ready")["status"] == 200, within_s)


@pytest.mark.parametrize("unit", ["bedplate.target", ENGINE, *WEBS, *SOCKETS])
def test_unit_runs(host, unit):
    assert show(host, unit, "ActiveState") == "active", host.run(f"journalctl --unit={unit} --no-pager").stdout


def test_everything_starts_at_boot(host):
    assert host.service("bedplate.target").is_enabled


@pytest.mark.parametrize("socket", SOCKETS)
def test_whole_path_is_ready(host, socket):
    assert get(host, socket, "/health/ready")["status"] == 200


@pytest.mark.parametrize("route", ["/v1/models", "/health/detailed"])
def test_without_a_key_the_answer_is_401(host, route):
    assert get(host, SOCKETS[0], route)["status"] == 401


def test_only_the_declared_ports_are_open(host):
    listening = host.check_output("ss --no-header --listening --tcp --numeric --processes")

    ours = {line.split()[3] for line in listening.splitlines() if '"bedplate"' in line}

    assert ours == {address(host, socket) for socket in [*SOCKETS, "bedplate-metrics.socket"]}


def test_killed_engine_makes_503_and_returns_unattended(host):
    web = show(host, WEBS[0], "MainPID")
    host.check_output(f"systemctl kill --signal=SIGKILL {ENGINE}")

    meanwhile = get(host, SOCKETS[0], "/health/ready")
    wait_until_ready(host, ENGINE_BACK_S)

    assert meanwhile["status"] == 503
    assert int(meanwhile["headers"]["retry-after"]) > 0
    assert show(host, WEBS[0], "MainPID") == web


def test_a_hung_engine_is_noticed_by_the_watchdog_and_started_anew(host):
    drop_in = "/run/systemd/system/bedplate-engine@cpu0.service.d"
    host.check_output("mkdir -p %s && printf '[Service]\\nWatchdogSec=9s\\n' > %s/watchdog.conf", drop_in, drop_in)
    host.check_output(f"systemctl daemon-reload && systemctl restart {ENGINE}")
    before = show(host, ENGINE, "MainPID")

    host.check_output(f"systemctl kill --signal=SIGSTOP --kill-whom=main {ENGINE}")
    wait_until(lambda: show(host, ENGINE, "MainPID") not in ("0", before), 9 + 5)
    wait_until_ready(host, ENGINE_BACK_S)

    assert show(host, ENGINE, "NRestarts") == "1"
    host.check_output(f"rm -r {drop_in} && systemctl daemon-reload && systemctl restart {ENGINE}")


def test_client_of_a_stopped_web_waits_instead_of_being_refused(host):
    host.check_output(f"systemctl stop {WEBS[1]}")

    answer = get(host, SOCKETS[1], "/ping")

    assert answer["status"] == 200
    assert show(host, WEBS[1], "ActiveState") == "active"


def test_stop_and_start_of_the_target_reach_every_unit(host):
    host.check_output("systemctl stop bedplate.target")
    for unit in [ENGINE, *WEBS, *SOCKETS]:
        wait_until(lambda unit=unit: show(host, unit, "ActiveState") == "inactive", DRAINED_S)

    host.check_output("systemctl start bedplate.target")

    wait_until_ready(host, ENGINE_BACK_S)


@pytest.mark.parametrize("unit", [ENGINE, *WEBS])
def test_unit_never_gives_up_and_cannot_take_the_host_along(host, unit):
    properties = dict(line.split("=", 1) for line in host.check_output(f"systemctl show {unit}").splitlines())

    assert properties["Restart"] == "always"
    assert properties["RestartUSec"] == "1s"
    assert properties["StartLimitIntervalUSec"] == "0"
    assert properties["LimitCORE"] == "0"
    # Nor hangs unnoticed.
    assert properties["WatchdogUSec"] not in ("0", "infinity")
    assert properties["Slice"] == "bedplate.slice"
    assert "infinity" not in (properties[limit] for limit in ("MemoryMax", "TasksMax", "LimitNOFILE"))


@pytest.mark.parametrize("name", ["bedplate-web", "bedplate-engine"])
def test_user_can_not_log_in_and_is_alone_in_its_group(host, name):
    user = host.user(name)

    assert user.uid < 1000
    assert user.shell.endswith("nologin")
    assert user.groups == [name]


def test_services_can_not_change_the_release(host):
    loose = host.check_output(r"find /opt/bedplate ! -type l \( ! -user root -o -perm /022 \)")

    assert loose == ""


def test_no_setting_is_readable_by_everyone(host):
    assert host.check_output("find /etc/bedplate -type f -perm /007") == ""


def test_keys_reach_the_web_as_a_credential_only(host):
    digest = json.loads(host.file("/etc/bedplate/credentials/api-keys").content_string)[0]["sha256"]
    pid = show(host, WEBS[0], "MainPID")

    exposed = host.check_output(f"systemctl show {WEBS[0]}; tr '\\0' ' ' < /proc/{pid}/environ")

    assert host.check_output(f"ls /run/credentials/{WEBS[0]}").split() == ["api-keys", "redis-cache"]
    assert digest not in exposed
    assert host.file("/etc/bedplate/credentials/api-keys").mode == 0o600


@pytest.mark.parametrize(
    ("user", "directory", "outcome"),
    [
        ("bedplate-web", "engine", "connected"),
        ("nobody", "engine", "PermissionError"),
        ("bedplate-web", "admin", "PermissionError"),
        ("nobody", "admin", "PermissionError"),
    ],
)
def test_only_the_web_reaches_the_engine_and_only_operators_change_it(host, user, directory, outcome):
    connect = f"""
import socket

try:
    socket.socket(socket.AF_UNIX).connect("/run/bedplate/{directory}/cpu0.sock")
    print("connected")
except OSError as error:
    print(type(error).__name__)
"""
    assert host.check_output("runuser -u %s -- python3 -c %s", user, connect) == outcome


def test_engine_refuses_a_bundle_that_was_tampered_with(host):
    host.check_output("mkdir /run/tampered && cp -r /var/lib/bedplate/models/digits/1 /run/tampered")
    host.check_output("echo '# one more line' >> /run/tampered/1/bundle.yaml")
    settings = "socket_dir: /run/tampered\nbundles: [/run/tampered/1]\n"
    host.check_output("printf %%s %s > /run/tampered/engine.yaml", settings)

    started = host.run(
        "timeout 60 /opt/bedplate/current/bin/bedplate engine --device cpu9 --settings /run/tampered/engine.yaml"
    )
    host.check_output("rm -r /run/tampered")

    assert started.rc == 2
    assert "SHA256SUMS" in started.stderr


def test_torch_uses_all_the_processor_has_inside_the_sandbox(host):
    ask = "import torch; print(torch.backends.cpu.get_cpu_capability())"
    outside = host.check_output("/opt/bedplate/current/bin/python -c %s", ask)
    unit = "bedplate-engine@capability"
    drop_in = "[Service]\nType=oneshot\nRestart=no\nWatchdogSec=0\nExecStart=\n" + (
        f"ExecStart=/opt/bedplate/current/bin/python -c '{ask}'\nStandardOutput=truncate:/run/capability\n"
    )
    host.check_output("mkdir -p %s && printf %%s %s > %s", *dropped(unit, drop_in))

    host.check_output(f"systemctl daemon-reload && systemctl start {unit}")
    inside = host.check_output("cat /run/capability")
    host.check_output(f"rm -r /run/capability /run/systemd/system/{unit}.service.d && systemctl daemon-reload")

    assert inside == outside


# An operator: nobody, but for the group.
OPERATOR = "setpriv --reuid=nobody --regid=bedplate-admin --clear-groups"
MODELS = "/opt/bedplate/current/bin/bedplate models"
SIGNERS = "/etc/bedplate/bundle-signers"
# Copies digits 1 as version 2, which nobody signed.
MAKE_TWO = """
import pathlib, shutil
from bedplate.bundle.manifest import write_manifest

one, two = (pathlib.Path("/var/lib/bedplate/models/digits") / version for version in "12")
shutil.copytree(one, two)
document = two / "bundle.yaml"
lines = document.read_text().splitlines()
assert sum(line.startswith("version:") for line in lines) == 1
document.write_text("\\n".join('version: "2"' if line.startswith("version:") else line for line in lines) + "\\n")
write_manifest(two)
"""
# Copies digits 1 as version 2, which brings a program in place of its layers.
MAKE_TWO_OF_CODE = r"""
import pathlib, shutil, yaml
from bedplate.bundle.manifest import write_manifest

one, two = (pathlib.Path("/var/lib/bedplate/models/digits") / version for version in "12")
shutil.copytree(one, two)
document = yaml.safe_load((two / "bundle.yaml").read_text()) | {"version": "2", "code": "model.py"}
del document["network"]
(two / "bundle.yaml").write_text(yaml.safe_dump(document))
(two / "model.py").write_text("import torch\n\n\ndef load(weights):\n    return torch.nn.Identity()\n\n\n"
                              "def predict(module, batch):\n    return torch.zeros(len(batch), 10)\n")
write_manifest(two)
"""
# Copies digits 1 as version 2, whose network is an .onnx file. Hosts have no package that writes one.
MAKE_TWO_OF_ONNX = """
import base64, pathlib, shutil, yaml
from bedplate.bundle.manifest import write_manifest

one, two = (pathlib.Path("/var/lib/bedplate/models/digits") / version for version in "12")
shutil.copytree(one, two)
document = yaml.safe_load((two / "bundle.yaml").read_text()) | {"version": "2", "onnx": "network.onnx"}
(two / document.pop("weights")).unlink()
del document["network"]
(two / "bundle.yaml").write_text(yaml.safe_dump(document))
(two / "network.onnx").write_bytes(base64.b64decode("%s"))
write_manifest(two)
"""
# Sends zeros to the engine as a front end would; prints which version of digits answers.
PREDICT = """
import math, socket
from bedplate.bundle.bundle import Bundle
from bedplate.wire import Frame, FrameReader, Type, encode

reader = FrameReader()

def ask(sock, frame):
    sock.sendall(b"".join(map(bytes, encode(frame))))
    while True:
        for answer in reader.feed(sock.recv(65536)):
            if answer.id == frame.id:
                return answer

with socket.socket(socket.AF_UNIX) as sock:
    sock.settimeout(20)
    sock.connect("/run/bedplate/engine/cpu0.sock")
    described = ask(sock, Frame(Type.DESCRIBE, 1, {})).meta["models"]
    spec = next(Bundle.from_description(one) for one in described if one["name"] == "digits").input
    inputs = [{"name": spec.name, "dtype": spec.dtype, "shape": [1, *spec.shape]}]
    meta = {"model": "digits", "version": None, "inputs": inputs}
    answer = ask(sock, Frame(Type.PREDICT, 2, meta, bytes(4 * math.prod(spec.shape))))
    print(answer.type.name, answer.meta.get("version"))
"""


def python(host, program):
    return host.check_output("/opt/bedplate/current/bin/python -c %s", program)


def loaded(host):
    """Aliases of each loaded version of digits."""
    models = json.loads(host.check_output(f"{OPERATOR} {MODELS} list --device cpu0 --json"))["models"]
    return {model["version"]: model["aliases"] for model in models if model["name"] == "digits"}


@contextlib.contextmanager
def signed_version_two(host, program):
    """On the host as an operator would put it there, signed by somebody new; in the end all is as it was."""
    python(host, program)
    host.check_output("mkdir -m 0700 /run/signer && ssh-keygen -q -t ed25519 -N '' -f /run/signer/key")
    host.check_output(f"cp --archive {SIGNERS} /run/signer/before")
    host.check_output(
        "/opt/bedplate/current/bin/bedplate bundle sign /var/lib/bedplate/models/digits/2 --key /run/signer/key"
    )
    host.check_output(f"echo tester $(cat /run/signer/key.pub) >> {SIGNERS}")
    host.check_output("chown -R root:bedplate-engine /var/lib/bedplate/models/digits/2")
    host.check_output("chmod -R u=rwX,g=rX,o= /var/lib/bedplate/models/digits/2")
    try:
        yield
    finally:
        host.run(f"{MODELS} load digits/1; {MODELS} promote digits 1; {MODELS} unload digits 2")
        # Started anew, so that the engine is not older than the directory that the version is gone from.
        host.check_output(f"cp --archive /run/signer/before {SIGNERS} && rm -r /run/signer")
        host.check_output(f"rm -r /var/lib/bedplate/models/digits/2 && systemctl restart {ENGINE}")
        wait_until_ready(host, ENGINE_BACK_S)


@pytest.fixture
def version_two(host):
    with signed_version_two(host, MAKE_TWO):
        yield


@pytest.fixture
def version_two_of_code(host):
    settings = "/etc/bedplate/engine.yaml"
    host.check_output(f"cp --archive {settings} /run/engine.yaml")
    with signed_version_two(host, MAKE_TWO_OF_CODE):
        yield settings
        # Before the engine is started anew; the time of the file is that of before, too.
        host.check_output(f"cp --archive /run/engine.yaml {settings} && rm /run/engine.yaml")


@pytest.fixture
def version_two_of_onnx(host):
    weights = numpy_helper.from_array(np.ones((64, 10), np.float32), "weights")
    graph = helper.make_graph(
        [helper.make_node("Flatten", ["image"], ["flat"]), helper.make_node("MatMul", ["flat", "weights"], ["logits"])],
        "digits",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["items", 1, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["items", 10])],
        [weights],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    with signed_version_two(host, MAKE_TWO_OF_ONNX % base64.b64encode(model.SerializeToString()).decode()):
        yield


def test_an_operator_sees_what_is_loaded(host):
    assert loaded(host) == {"1": ["default"]}
    assert host.check_output(f"{MODELS} list").splitlines()[0].startswith("DEVICE")


def test_an_operator_brings_a_version_that_outlives_a_crash_and_takes_the_old_one_out(host, version_two):
    host.check_output(f"{OPERATOR} {MODELS} load digits/2")
    assert python(host, PREDICT) == "RESULT 1"
    host.check_output(f"{OPERATOR} {MODELS} promote digits 2")
    assert python(host, PREDICT) == "RESULT 2"

    host.check_output(f"systemctl kill --signal=SIGKILL {ENGINE}")
    wait_until(lambda: host.run(f"{MODELS} list").rc == 0, ENGINE_BACK_S)
    assert loaded(host) == {"1": [], "2": ["default"]}
    assert python(host, PREDICT) == "RESULT 2"

    host.check_output(f"{OPERATOR} {MODELS} unload digits 1")
    assert loaded(host) == {"2": ["default"]}
    assert python(host, PREDICT) == "RESULT 2"


def test_a_bundle_that_a_stranger_made_is_refused_and_the_old_version_goes_on_answering(host, version_two):
    host.check_output(f"cp --archive /run/signer/before {SIGNERS}")

    refused = host.run(f"{OPERATOR} {MODELS} load digits/2")

    assert refused.rc == 1
    assert "no good signature of anybody in" in refused.stderr
    assert loaded(host) == {"1": ["default"]}
    assert python(host, PREDICT) == "RESULT 1"


def test_a_program_in_a_bundle_runs_where_the_settings_name_its_sum_and_nowhere_else(host, version_two_of_code):
    refused = host.run(f"{OPERATOR} {MODELS} load digits/2")
    still = loaded(host)
    [found] = host.check_output("sha256sum /var/lib/bedplate/models/digits/2/model.py").split()[:1]
    host.check_output(f"echo 'code: [{found}]' >> {version_two_of_code} && systemctl restart {ENGINE}")
    wait_until(lambda: host.run(f"{MODELS} list").rc == 0, ENGINE_BACK_S)
    host.check_output(f"{OPERATOR} {MODELS} load digits/2")

    assert refused.rc == 1
    assert "bedplate_bundles_with_code" in refused.stderr
    assert still == {"1": ["default"]}
    assert loaded(host) == {"1": ["default"], "2": []}
    assert python(host, PREDICT) == "RESULT 1"


def test_onnxruntime_computes_inside_the_sandbox_and_leaves_nothing_of_its_own(host, version_two_of_onnx):
    host.check_output(f"{OPERATOR} {MODELS} load digits/2")
    host.check_output(f"{OPERATOR} {MODELS} promote digits 2")

    assert python(host, PREDICT) == "RESULT 2"
    said = host.check_output(f"journalctl --unit={ENGINE} --output=cat --since=-1min")
    assert "onnxruntime" not in said, said
    # What it reports to its maker it would first write down.
    assert host.check_output("find / -xdev -path '*/.cache/Microsoft*' -o -xdev -name .ses 2>/dev/null || true") == ""


@pytest.mark.parametrize("directory", ["/etc", "../../../../etc", "digits", "/run/bedplate"])
def test_an_operator_loads_nothing_from_elsewhere(host, directory):
    refused = host.run(f"{OPERATOR} {MODELS} load {directory}")

    assert refused.rc == 1
    assert loaded(host) == {"1": ["default"]}


def dropped(unit, text):
    directory = f"/run/systemd/system/{unit}.service.d"
    return directory, text, f"{directory}/capability.conf"
