"""A trained network as a bundle on the disk."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from bedplate.bundle.manifest import write_manifest
from safetensors.torch import save_file
from torch import nn


def write_bundle(
    directory: Path,
    document: Mapping[str, Any],
    module: nn.Module,
    validation: tuple[torch.Tensor, torch.Tensor],
    files: Mapping[str, bytes],
) -> None:
    """Write it beside its place, then move it there: a cut-off run leaves no half of one.

    Args:
        document: bundle.yaml.
        validation: inputs and what is expected, which `bedplate bundle check` computes.
        files: the rest by name: the canary.
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    # A name of its own: another run may train the same.
    partial = Path(tempfile.mkdtemp(dir=directory.parent, prefix=f".{directory.name}-"))
    partial.chmod(0o755)
    weights = {name: tensor.contiguous() for name, tensor in module.state_dict().items()}
    save_file(weights, partial / document["weights"])
    inputs, expected = (tensor.contiguous() for tensor in validation)
    save_file({"inputs": inputs, "expected": expected}, partial / document["validation"]["file"])
    for file in partial.glob("*.safetensors"):
        file.chmod(0o644)  # save_file makes it readable for its owner alone
    for name, content in files.items():
        (partial / name).write_bytes(content)
    (partial / "bundle.yaml").write_text(yaml.safe_dump(dict(document), sort_keys=False))
    write_manifest(partial)
    shutil.rmtree(directory, ignore_errors=True)
    partial.rename(directory)
