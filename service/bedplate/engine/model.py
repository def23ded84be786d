"""One loaded model: tensors in, tensors out. It knows bundles and devices; it never sees a socket."""

from __future__ import annotations

from collections.abc import Callable
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
from bedplate.engine.cuda import Pipeline
from bedplate.engine.guard import guarded

Array = npt.NDArray[np.float32]


class Model:
    """A bundle's network with its weights, on one device, ready to predict.

    Where the device overlaps (`overlaps`), `begin` copies one batch while another one is computed.
    """

    def __init__(self, bundle: Bundle, module: nn.Module, device: torch.device, precision: torch.dtype = torch.float32):
        self.bundle = bundle
        self.max_items = bundle.max_items
        self.max_cost = bundle.max_cost
        self._module = module
        self._device = device
        self._precision = precision
        self._pipeline = Pipeline(self.predict, device) if device.type == "cuda" else None
        self.overlaps = self._pipeline is not None
        self.weights_bytes = sum(tensor.nbytes for tensor in module.state_dict().values())

    @classmethod
    def load(cls, bundle: Bundle, directory: Path, device: torch.device, precision: str = "float32") -> Model:
        """Build the network and give it the weights.

        Args:
            precision: what the network computes in, float32 or bfloat16; inputs and outputs are float32 all the same.

        Raises:
            BundleError: layers that are not allowed; weights whose names, shapes or types are not the network's.
            DeviceOutOfMemory: the weights do not fit.
        """
        source = str(directory / "bundle.yaml")
        # Without memory behind it: a bundle that announces more than its weights hold costs nothing.
        with torch.device("meta"):
            module = network.build(bundle.network, source)
        weights = _read_weights(directory / bundle.weights)
        _check_weights(module.state_dict(), weights, f"{directory / bundle.weights}")
        module.load_state_dict(weights, strict=True, assign=True)
        dtype = getattr(torch, precision)
        module.requires_grad_(False).eval()
        return guarded(lambda: cls(bundle, module.to(device, dtype), device, dtype))

    @torch.inference_mode()
    def predict(self, batch: torch.Tensor) -> torch.Tensor:
        """(items, *input shape) to (items, *output shape), both float32 and on the model's device."""
        result: torch.Tensor = self._module(batch.to(self._precision))
        return result.float()

    def run(self, items: Array) -> Array:
        """`predict` for arrays in host memory; `items` must be writable, torch shares it.

        Raises:
            DeviceOutOfMemory, DeviceLost: see there; anything else is the network's own fault.
        """
        return self.begin(items)() if self.overlaps else guarded(lambda: self._run(items))

    def begin(self, items: Array) -> Callable[[], Array]:
        """Start what `run` does, on a device that overlaps; the result waits for the answer. Two may be under way.

        Raises:
            DeviceOutOfMemory, DeviceLost: both here and from the result.
        """
        assert self._pipeline, "only a device that overlaps begins"
        pipeline = self._pipeline
        finish = guarded(lambda: pipeline.begin(items))
        return lambda: guarded(finish)

    def _run(self, items: Array) -> Array:
        batch = torch.from_numpy(items)  # (items, *input shape) float32 on cpu
        result: Array = self.predict(batch).contiguous().numpy()
        return result

    def warm_up(self) -> None:
        """Answer a batch of each size class, so that the first caller does not pay for what torch does once.

        Raises:
            BundleError: the network does not run, or does not give what bundle.yaml promises.
            DeviceOutOfMemory: a batch that bundle.yaml allows does not fit.
        """
        for inputs in self.warm_up_inputs():
            self.warm_up_with(inputs)

    def release(self) -> None:
        """Give the memory of the weights back. Until `restore` there is nothing to predict with."""
        del self._module

    def restore(self, fresh: Model) -> None:
        """Become what `fresh`, loaded from the same bundle, is; requests that hold this one go on with it."""
        vars(self).update(vars(fresh))

    def warm_up_inputs(self) -> list[Array]:
        """Zeros: of the smallest shape and of the largest, one item, powers of two and a full batch."""
        spec = self.bundle.input
        inputs = []
        for shape in sorted({spec.smallest, spec.largest}):
            most = spec.most_items(shape, self.max_items, self.max_cost)
            sizes = {most} | {1 << power for power in range(most.bit_length())}
            inputs += [np.zeros((items, *shape), np.float32) for items in sorted(sizes)]
        return inputs

    def warm_up_with(self, inputs: Array) -> None:
        """One step of `warm_up`; raises what it raises."""
        self._check_answer(inputs)
        if pipeline := self._pipeline:
            guarded(lambda: pipeline.tune(inputs.shape))

    def _check_answer(self, inputs: Array) -> None:
        name = f"{self.bundle.name} {self.bundle.version}"
        items, *shape = inputs.shape
        try:
            result = self.run(inputs)
        except RuntimeError as error:
            raise BundleError(f"{name}: network: fails on {items} items of shape {shape} ({error})") from None
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
