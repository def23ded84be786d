"""One loaded model: tensors in, tensors out. It knows bundles and devices; it never sees a socket."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.torch
import torch
from torch import nn

from bedplate.bundle import Bundle
from bedplate.document import BundleError
from bedplate.engine import network

Array = npt.NDArray[np.float32]


class Model:
    """A bundle's network with its weights, on one device, ready to predict."""

    def __init__(self, bundle: Bundle, module: nn.Module, device: torch.device):
        self.bundle = bundle
        self.max_items = bundle.max_items
        self._module = module
        self._device = device
        self.weights_bytes = sum(tensor.nbytes for tensor in module.state_dict().values())

    @classmethod
    def load(cls, bundle: Bundle, directory: Path, device: torch.device) -> Model:
        """Build the network and give it the weights.

        Raises:
            BundleError: layers that are not allowed; weights whose names, shapes or types are not the network's.
        """
        source = str(directory / "bundle.yaml")
        # Without memory behind it: a bundle that announces more than its weights hold costs nothing.
        with torch.device("meta"):
            module = network.build(bundle.network, source)
        weights = _read_weights(directory / bundle.weights)
        _check_weights(module.state_dict(), weights, f"{directory / bundle.weights}")
        module.load_state_dict(weights, strict=True, assign=True)
        return cls(bundle, module.requires_grad_(False).eval().to(device), device)

    @torch.inference_mode()
    def predict(self, batch: torch.Tensor) -> torch.Tensor:
        """(items, *input shape) to (items, *output shape), both on the model's device."""
        result: torch.Tensor = self._module(batch)
        return result

    def run(self, items: Array) -> Array:
        """`predict` for arrays in host memory; `items` must be writable, torch shares it."""
        batch = torch.from_numpy(items).to(self._device)  # (items, *input shape) float32
        result: Array = self.predict(batch).cpu().contiguous().numpy()
        return result

    def warm_up(self) -> None:
        """Answer a batch of each size class, so that the first caller does not pay for what torch does once.

        Raises:
            BundleError: the network does not run, or does not give what bundle.yaml promises.
        """
        for step in self.warm_up_steps():
            step()

    def warm_up_steps(self) -> list[Callable[[], None]]:
        """The warm-up in parts of one batch each: between them the device may do something else."""
        sizes = {1, self.max_items} | {1 << power for power in range(self.max_items.bit_length())}
        return [partial(self._check_answer, items) for items in sorted(sizes)]

    def release(self) -> None:
        """Give the memory of the weights back. Until `restore` there is nothing to predict with."""
        del self._module

    def restore(self, fresh: Model) -> None:
        """Become what `fresh`, loaded from the same bundle, is; requests that hold this one go on with it."""
        vars(self).update(vars(fresh))

    def _check_answer(self, items: int) -> None:
        name = f"{self.bundle.name} {self.bundle.version}"
        try:
            result = self.run(np.zeros((items, *self.bundle.input.shape), np.float32))
        except RuntimeError as error:
            raise BundleError(f"{name}: network: fails on {items} items of the declared shape ({error})") from None
        wanted = (items, *self.bundle.output.shape)
        if result.shape != wanted or result.dtype != np.float32:
            raise BundleError(
                f"{name}: outputs[0]: network gives {result.dtype} {result.shape}, bundle.yaml says float32 {wanted}"
            )
        if not np.isfinite(result).all():
            raise BundleError(f"{name}: network gives values that are not finite; train or export it again")


def _read_weights(path: Path) -> dict[str, torch.Tensor]:
    try:
        weights = safetensors.torch.load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise BundleError(f"{path}: is not safetensors ({error}); export the weights again") from None
    # Copies: the file is only mapped, and torch is fastest on memory that it aligned itself.
    return {name: tensor.clone() for name, tensor in weights.items()}


def _check_weights(wanted: dict[str, torch.Tensor], found: dict[str, torch.Tensor], source: str) -> None:
    for name in sorted(wanted.keys() - found.keys()):
        raise BundleError(f"{source}: tensor '{name}' is missing; the network needs {_shown(wanted[name])}")
    for name in sorted(found.keys() - wanted.keys()):
        raise BundleError(f"{source}: tensor '{name}' is not in the network; export the weights of this network")
    for name, tensor in found.items():
        if tensor.shape != wanted[name].shape or tensor.dtype != wanted[name].dtype:
            raise BundleError(f"{source}: tensor '{name}' is {_shown(tensor)}, wanted {_shown(wanted[name])}")
        if not torch.isfinite(tensor).all():
            raise BundleError(f"{source}: tensor '{name}' holds values that are not finite; train the model again")


def _shown(tensor: torch.Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
