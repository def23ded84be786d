"""A pickle that would run a program, in every place where a file or a byte can be put: it never runs."""

import base64
import io
import json
import os
import pickle
import shutil
import socket
import subprocess
import sys
import zipfile
import zlib

import pytest
import torch
from bedplate import wire
from bedplate.bundle import pickles
from bedplate.bundle.bundle import BundleError, read_bundle, write_manifest
from bedplate.bundle.manifest import write_signature
from bedplate.commands import cli
from bedplate.wire import Frame, Type
from safetensors.torch import save

from tests.service.engine_tools import write_lamp
from tests.service.redis_tools import PASSWORD, PrivateRedis
from tests.service.signing_tools import BRIGHT, host, make_key, signed_version, signer
from tests.service.test_processes import wait_until

BUNDLE_FILES = ["SHA256SUMS", "SHA256SUMS.sig", "bundle.yaml", "canary.png", "weights.safetensors"]
EXTRA_FILES = ["validation.safetensors", "README.md", "weights.pt", "data.pkl", "model.py", "extra"]


class Program:
    """What its pickle does when it is loaded: it makes the file `trace`."""

    def __init__(self, trace):
        self.trace = str(trace)

    def __reduce__(self):
        return os.mknod, (self.trace,)


def payloads(trace):
    """The same program as each kind of pickle, and in the archives that hold them."""
    program = Program(trace)
    saved = io.BytesIO()
    torch.save({"weight": program}, saved)
    legacy = io.BytesIO()
    torch.save({"weight": program}, legacy, _use_new_zipfile_serialization=False)
    script = io.BytesIO()
    with zipfile.ZipFile(script, "w") as archive:
        archive.writestr("lamp/constants.pkl", pickle.dumps(program))
        archive.writestr("lamp/data.pkl", pickle.dumps(program))
        archive.writestr("lamp/code/__torch__.py", "def forward(self): ...")
    kinds = {f"protocol {number}": pickle.dumps(program, number) for number in range(6)}
    return kinds | {"torch.save": saved.getvalue(), "old torch.save": legacy.getvalue(), "script": script.getvalue()}


@pytest.fixture
def trace(tmp_path):
    return tmp_path / "it-ran"


@pytest.mark.parametrize("kind", ["protocol 0", "protocol 1", "protocol 2", "protocol 4", "protocol 5"])
def test_the_program_runs_where_it_is_unpickled(trace, kind):
    load = "import pickle, sys; pickle.load(sys.stdin.buffer)"
    subprocess.run([sys.executable, "-c", load], input=payloads(trace)[kind], check=True)

    assert trace.exists()


@pytest.mark.parametrize("name", [*BUNDLE_FILES, *EXTRA_FILES])
def test_it_is_refused_in_every_file_of_a_bundle_and_says_how_to_convert_it(tmp_path, trace, name):
    key = make_key(tmp_path, "signer")
    (tmp_path / "signers").write_text(signer(key))

    for kind, payload in payloads(trace).items():
        bundle = write_lamp(tmp_path / kind)
        (bundle / name).write_bytes(payload)
        # As who may sign would bring it in: sums and signature are right, as far as there can be any.
        if name != "SHA256SUMS":
            write_manifest(bundle)
        write_signature(bundle, key)
        if name == "SHA256SUMS.sig":
            (bundle / name).write_bytes(payload)
        with pytest.raises(BundleError) as refusal:
            read_bundle(bundle, tmp_path / "signers")
        if not name.startswith("SHA256SUMS"):
            assert "safetensors.torch.save_file" in str(refusal.value), kind
        assert [cli.main(["bundle", verb, str(bundle)]) for verb in ("verify", "inspect", "check")] == [1] * 3 or (
            name == "SHA256SUMS.sig"  # that only counts where signers are asked for
        )

    assert not trace.exists()


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"name: lamp\nversion: '1'\n",
        b"chapter one\nsecond line\nthird line, of a README\n",
        b"cat\nis\nno pickle.",
        b'{"inputs": [[1, 2]]}',
        b"I am a text. It ends here.",
        b"S'a\\/b'\n.",
        b"c" * pickles.HEAD_BYTES,
        ("c" + "and so on it goes\n" * 5000).encode()[: pickles.HEAD_BYTES],
        BRIGHT,
    ],
)
def test_what_is_no_pickle_is_not_taken_for_one(tmp_path, head):
    pickles.refuse(tmp_path / "file.txt", head)


@pytest.mark.parametrize("protocol", pickles._PROTOCOLS)
def test_weights_whose_header_is_as_long_as_a_pickles_mark_are_no_pickle(tmp_path, protocol):
    """The header is filled up to eight bytes: one length of 256 or so begins like each protocol."""
    name = "w" * (0x80 + (protocol << 8) - 64)
    while int.from_bytes((whole := save({name: torch.zeros(1)}))[:8], "little") != 0x80 + (protocol << 8):
        name += "w"

    pickles.refuse(tmp_path / "weights.safetensors", whole[: pickles.HEAD_BYTES])

    assert whole[:2] == bytes([0x80, protocol])


def test_a_pickle_that_goes_on_behind_what_is_looked_at_is_one(tmp_path, trace):
    large = pickle.dumps([Program(trace), "x" * pickles.HEAD_BYTES * 2], 0)

    with pytest.raises(BundleError, match="is a pickle"):
        pickles.refuse(tmp_path / "file.txt", large[: pickles.HEAD_BYTES])


@pytest.fixture
def server(tmp_path):
    server = PrivateRedis(tmp_path)
    server.start()
    yield server
    server.close()


def sent_to_every_route(served, payload):
    """The statuses of all that a client can send it in."""
    text = base64.b64encode(payload).decode()
    boundary = "b0undary"
    part = f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="x.pkl"\r\n\r\n'.encode()
    form = part + payload + f"\r\n--{boundary}--\r\n".encode()
    infer = {"inputs": [{"name": "image", "shape": [1, 1, 2, 2], "datatype": "FP32", "data": text}]}
    binary = {"inputs": [{"name": "image", "shape": [1, 1, 2, 2], "datatype": "FP32"}]}
    binary["inputs"][0]["parameters"] = {"binary_data_size": len(payload)}
    header = json.dumps(binary).encode()
    types = ["image/png", "image/jpeg", "image/webp", "application/octet-stream", "application/json"]
    types += ["application/x-pickle", "application/x-python-serialize", "text/plain"]
    v1, v2 = "/v1/models/lamp/predict", "/v2/models/lamp/infer"
    answers = [served.post(route, payload, kind) for kind in types for route in (v1, v2)]
    answers += [
        served.post(v1, form, f"multipart/form-data; boundary={boundary}"),
        served.post(v1, json.dumps({"inputs": [text]}).encode(), "application/json"),
        served.post(v2, json.dumps(infer).encode(), "application/json"),
        served.post(v2, header + payload, "application/octet-stream", Inference_Header_Content_Length=str(len(header))),
    ]
    return [status for status, _ in answers]


def say_to_socket(path, data):
    """Raw bytes, then the same as the metadata and the tensors of a frame."""
    text = base64.b64encode(data).decode()
    frames = [data, b"".join(map(bytes, wire.encode(Frame(Type.ADMIN, 1, {"do": "load", "directory": text}))))]
    frames += [b"".join(map(bytes, wire.encode(Frame(kind, 1, {"model": text}, data)))) for kind in (Type.PREDICT,)]
    for frame in frames:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(5)
            sock.connect(str(path))
            try:
                sock.sendall(frame)
                sock.recv(4096)
            except OSError:
                pass  # it may hang up at any time


def test_it_runs_in_no_place_of_a_running_host(tmp_path, trace, server):
    key = make_key(tmp_path, "signer")
    signed_version(tmp_path / "models", "1", key)
    good = signed_version(tmp_path / "models", "2", key)
    (tmp_path / "redis-password").write_text(PASSWORD)
    # Nothing is kept in memory, or Redis would not be asked again.
    web = {
        "cache_memory_bytes": 0,
        "cache_shared_min_ms": 0,
        "cache_timeout_ms": 5000,
        "cache_ttl_s": 60,
        "cache_socket": str(server.socket),
        "cache_password_file": f"{tmp_path}/redis-password",
    }
    statuses = []

    with host(tmp_path, signer(key), "lamp/1", web=web) as served:
        for number, (kind, payload) in enumerate(payloads(trace).items()):
            statuses += sent_to_every_route(served, payload)
            for name in ("cpu0.sock", "admin/cpu0.sock"):
                say_to_socket(tmp_path / name, payload)
            for name in [*BUNDLE_FILES, *EXTRA_FILES]:
                directory = tmp_path / "models/lamp" / f"{number}-{name}"
                shutil.copytree(good, directory)
                (directory / name).write_bytes(payload)
                if not name.startswith("SHA256SUMS"):
                    write_manifest(directory)
                    write_signature(directory, key)
                assert "error" in served.load(f"lamp/{number}-{name}"), (kind, name)
            poison_cache(served, server, payload)
        version, loaded = served.answering_version(), served.loaded()

    assert {status // 100 for status in statuses} == {4}
    assert (version, loaded) == ("1", {"1": ["default"]})
    assert not trace.exists()


def poison_cache(served, server, payload):
    """What front ends kept is exchanged for the payload, and asked for again."""
    for value in (payload, zlib.compress(payload)):
        served.post("/v1/models/lamp/predict", BRIGHT, Cache_Control="max-age=60")
        wait_until(lambda: server.admin.dbsize() == 1)
        [kept] = server.admin.scan_iter()
        server.admin.set(kept, value)
        status, body = served.post("/v1/models/lamp/predict", BRIGHT, Cache_Control="max-age=60")
        assert (status, json.loads(body)["predictions"][0]["label"]) == (200, "bright")
        server.admin.flushall()
