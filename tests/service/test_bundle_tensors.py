"""Tensors are read once: what was summed up is what is used. The library of that name only writes here."""

import json
import os

import pytest
import torch
from bedplate.bundle.bundle import BundleError, read_bundle, write_manifest
from bedplate.bundle.manifest import read_manifest
from bedplate.engine.model import Model
from bedplate.engine.tensors import read_tensors
from safetensors.torch import save_file

from tests.service.engine_tools import WEIGHTS, write_lamp

CPU = torch.device("cpu")
KINDS = [torch.bool, torch.bfloat16, torch.float16, torch.float32, torch.float64, torch.int8, torch.int16, torch.int32]
KINDS += [torch.int64, torch.uint8, torch.uint16, torch.uint32, torch.uint64]


def read(folder):
    write_manifest(folder)
    return read_tensors(read_manifest(folder), "t.safetensors")


@pytest.mark.parametrize("shape", [(3, 5), (), (0, 4), (1, 2, 3, 4)])
@pytest.mark.parametrize("dtype", KINDS)
def test_every_datatype_is_read_as_it_was_written(tmp_path, dtype, shape):
    written = {"a": torch.randint(0, 2, shape).to(dtype), "b.c": torch.ones(7, dtype=dtype), "d": torch.zeros(3)}
    save_file(written, tmp_path / "t.safetensors", metadata={"format": "pt"})

    found = read(tmp_path)

    assert found.keys() == written.keys()
    for name, tensor in written.items():
        assert found[name].dtype is tensor.dtype
        assert torch.equal(found[name].view(torch.uint8), tensor.view(torch.uint8)) if tensor.dim() else True
        assert found[name].shape == tensor.shape
        assert found[name].tolist() == tensor.tolist()


def entry(begin=0, end=8, shape=(2,), dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def safetensors_of(header, data=bytes(8)):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x02\x00\x00",
        b"\xff" * 64,
        safetensors_of(b"{]"),
        safetensors_of([entry()]),
        safetensors_of({"a": 3}),
        safetensors_of({"a": {"dtype": "F32", "shape": [2]}}),
        safetensors_of({"a": entry(dtype="F8_E4M3")}),
        safetensors_of({"a": entry(dtype=["F32"])}),
        safetensors_of({"a": entry(shape=[-2])}),
        safetensors_of({"a": entry(shape=["2"])}),
        safetensors_of({"a": entry(shape=[1] * 64)}),
        safetensors_of({"a": entry(shape=[1 << 60, 1 << 60])}),
        safetensors_of({"a": entry(end=4)}),
        safetensors_of({"a": entry(begin=4, end=12)}, bytes(12)),  # a gap
        safetensors_of({"a": entry(), "b": entry()}),  # one over the other
        safetensors_of({"a": entry(end="8")}),
        safetensors_of({"a": entry(end=4 << 40, shape=[1 << 40])}),  # more than any memory
        safetensors_of({"a": entry()}, bytes(7)),
        safetensors_of({"a": entry()}, bytes(9)),
        safetensors_of(b"[" * 100_000),
    ],
    ids=lambda content: repr(content[:60]),
)
def test_what_is_not_safetensors_is_refused(tmp_path, content):
    (tmp_path / "t.safetensors").write_bytes(content)

    with pytest.raises(BundleError, match="is not safetensors"):
        read(tmp_path)


def test_weights_that_change_after_the_check_are_not_used(tmp_path):
    directory = write_lamp(tmp_path / "lamp")
    bundle = read_bundle(directory)
    save_file({name: tensor + 1 for name, tensor in WEIGHTS.items()}, directory / "weights.safetensors")

    with pytest.raises(BundleError, match=r"weights\.safetensors: has sha256"):
        Model.load(bundle, directory, CPU)


def test_a_bundle_that_is_exchanged_after_the_check_is_not_used(tmp_path):
    directory = write_lamp(tmp_path / "lamp")
    other = write_lamp(tmp_path / "other", weights={name: tensor + 1 for name, tensor in WEIGHTS.items()})
    bundle = read_bundle(directory)
    directory.rename(tmp_path / "old")
    other.rename(directory)

    with pytest.raises(BundleError, match="has changed while it was loaded"):
        Model.load(bundle, directory, CPU)


def test_a_file_that_is_cut_while_it_is_read_is_refused(tmp_path):
    save_file(WEIGHTS, tmp_path / "t.safetensors")
    write_manifest(tmp_path)
    manifest = read_manifest(tmp_path)
    os.truncate(tmp_path / "t.safetensors", 100)

    with pytest.raises(BundleError):
        read_tensors(manifest, "t.safetensors")
