"""One loaded model: tensors in, tensors out. It knows bundles and devices; it never sees a socket."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from pathlib import Path

import numpy as np
import torch
from torch import nn

from bedplate.bundle import user_code
from bedplate.bundle.bundle import Bundle
from bedplate.bundle.manifest import Manifest, read_manifest
from bedplate.bundle.onnx import MAX_BYTES as MAX_ONNX_BYTES
from bedplate.bundle.onnx import read_onnx
from bedplate.bundle.program import Program
from bedplate.bundle.strict_yaml import BundleError
from bedplate.bundle.tensor import Tensor
from bedplate.bundle.tokenizer import check_tokenizer
from bedplate.engine import coded, network, onnx, program
from bedplate.engine.cuda import Pipeline, to_numpy
from bedplate.engine.guard import guarded
from bedplate.engine.recommender import Recommender, read_recommender
from bedplate.engine.tensors import read_tensors
from bedplate.engine.variant import ModelVariant
from bedplate.engine.work import Array

__all__ = ["Array", "Model"]


class Model:
    """A bundle's network with its weights, on one device, ready to predict.

    If the device overlaps (`overlaps`), `begin` copies one batch while another one is computed.
    """

    def __init__(self, bundle: Bundle, module: nn.Module, device: torch.device, form: ModelVariant = ModelVariant()):  # noqa: B008
        self.bundle = bundle
        self.form = form.name
        self.max_items = bundle.max_items
        self.max_cost = bundle.max_cost
        self._module = module
        self._device = device
        # Native code takes and gives what the bundle says, and knows itself what it computes in.
        self._precision = torch.float32 if form.package else dtype_of(form)
        self._takes = _torch_dtype(bundle.input)
        self._gives = _torch_dtype(bundle.output)
        # A recommender looks names up on the processor in the middle of its work; onnxruntime copies batches itself.
        overlaps = device.type == "cuda" and not isinstance(module, (Recommender, onnx.OnnxSession))
        self._pipeline = Pipeline(self.predict, device, self._takes) if overlaps else None
        self.overlaps = self._pipeline is not None
        self.weights_bytes = sum(tensor.nbytes for tensor in module.state_dict().values())
        if isinstance(module, (Compiled, Recommender, onnx.OnnxSession)):
            self.weights_bytes += module.host_bytes

    @classmethod
    def load(
        cls,
        bundle: Bundle,
        directory: Path,
        device: torch.device,
        form: ModelVariant = ModelVariant(),  # noqa: B008
        allowed: Collection[str] = (),
    ) -> Model:
        """Build the network and give it the weights, or load the native code that was built of both.

        Args:
            form: how to compute; inputs and outputs stay what bundle.yaml says.
            allowed: sums of the programs of bundles that may run here.

        Raises:
            BundleError: layers are not allowed or do not take the input; names, shapes or types of weights are not the
                network's; a program may not run, or does not.
            DeviceOutOfMemory: the weights do not fit.
        """
        if form.package:
            # Built of the same bundle, maybe by another version of this program.
            _check_network(bundle, directory)
        return cls.of(bundle, lambda: read_network(bundle, directory, allowed, device), device, form)

    @classmethod
    def of(cls, bundle: Bundle, network: Callable[[], nn.Module], device: torch.device, form: ModelVariant) -> Model:
        """Do what `load` does for a network that comes from elsewhere: float32, on the CPU, not to be trained."""
        if form.package:
            package = form.package
            return guarded(lambda: cls(bundle, Compiled(package), device, form))
        module = network()
        # A program of the bundle's own may rely on how its tensors lie.
        settled = form if bundle.code else form.settled(module, device)
        return guarded(lambda: cls(bundle, formed(module, settled).to(device), device, settled))

    def require_known(self, items: Array) -> None:
        """Check that a model that recommends knows the users of a query.

        Raises:
            UnknownUser, OutOfRange: it does not, or the query is out of range.
        """
        if isinstance(self._module, Recommender):
            self._module.require_known(items)

    @torch.inference_mode()
    def predict(self, batch: torch.Tensor) -> torch.Tensor:
        """Compute (items, *output shape) of (items, *input shape), in the bundle's dtypes and on the model's device.

        Raises:
            BundleError: the network returns another kind of dtype than bundle.yaml promises.
        """
        if batch.is_floating_point() and self._precision is not torch.float32:
            batch = batch.to(self._precision)
        result: torch.Tensor = self._module(batch)
        if result.is_floating_point() and self._gives.is_floating_point:
            return result.to(self._gives)
        if result.dtype is not self._gives:
            raise self._other_output(_shown_dtype(result.dtype), tuple(result.shape))
        return result

    def run(self, items: Array) -> Array:
        """Do what `predict` does for arrays in host memory. `items` must be writable, because torch shares it.

        Raises:
            DeviceOutOfMemory, DeviceLost: see there. Any other error is the network's own.
        """
        return self.begin(items)() if self.overlaps else guarded(lambda: self._run(items))

    def begin(self, items: Array) -> Callable[[], Array]:
        """Start what `run` does, on a device that overlaps; calling the result waits for the answer. Two may be begun.

        Raises:
            DeviceOutOfMemory, DeviceLost: both here and from the result.
        """
        assert self._pipeline, "only a device that overlaps begins"
        pipeline = self._pipeline
        finish = guarded(lambda: pipeline.begin(items))
        return lambda: guarded(finish)

    def _run(self, items: Array) -> Array:
        if isinstance(self._module, onnx.OnnxSession):
            # By way of torch it would be a fifth slower for the smallest models.
            return self._module.compute(items)
        # (items, *input shape) in the bundle's dtype on cpu; bfloat16 comes as the uint16 that numpy holds it in.
        batch = torch.from_numpy(items).view(self._takes)
        return to_numpy(self.predict(batch).contiguous())

    def warm_up(self) -> None:
        """Compute a batch of each size class, so that the first caller does not pay for what torch does once.

        Raises:
            BundleError: the network does not run, or does not return what bundle.yaml promises.
            DeviceOutOfMemory: a batch that bundle.yaml allows does not fit.
        """
        for inputs in self.warm_up_inputs():
            self.warm_up_with(inputs)

    def release(self) -> None:
        """Free the memory of the weights. Until `restore` the model cannot predict."""
        del self._module

    def restore(self, fresh: Model) -> None:
        """Take over the weights of `fresh`, loaded from the same bundle; requests that hold this model go on."""
        vars(self).update(vars(fresh))

    def warm_up_inputs(self) -> list[Array]:
        """Return zeros of the smallest and of the largest shape: one item, powers of two, and a full batch."""
        spec = self.bundle.input
        inputs = []
        for shape in sorted({spec.smallest, spec.largest}):
            most = spec.most_items(shape, self.max_items, self.max_cost)
            sizes = {most} | {1 << power for power in range(most.bit_length())}
            inputs += [np.zeros((items, *shape), spec.numpy_dtype) for items in sorted(sizes)]
        return inputs

    def warm_up_with(self, inputs: Array) -> None:
        """Do one step of `warm_up`; raises what it raises."""
        self._check_answer(inputs)
        # What a program does beside its tensors would be recorded once, and never done again.
        if (pipeline := self._pipeline) and not self.bundle.code:
            guarded(lambda: pipeline.tune(inputs.shape))

    def _check_answer(self, inputs: Array) -> None:
        name = f"{self.bundle.name} {self.bundle.version}"
        items, *shape = inputs.shape
        try:
            result = self.run(inputs)
        except RuntimeError as error:
            raise BundleError(f"{name}: {self._part}: fails on {items} items of shape {shape} ({error})") from None
        if result.shape != (items, *self.bundle.output.shape):
            raise self._other_output(self.bundle.output.dtype, result.shape)
        if not self.bundle.output.answerable(result).all():
            raise BundleError(
                f"{name}: {self._part} gives values that are not finite; train or export it again, or say "
                "'non_finite: allow' of the output if that is meant (docs/bundles.md)"
            )

    @property
    def _part(self) -> str:
        """What a model that does not do is to be blamed on."""
        return self.bundle.code or self.bundle.program or self.bundle.onnx or "network"

    def _other_output(self, dtype: str, shape: tuple[int, ...]) -> BundleError:
        bundle, spec = self.bundle, self.bundle.output
        return BundleError(
            f"{bundle.name} {bundle.version}: outputs[0]: {self._part} gives {dtype} {shape}, "
            f"bundle.yaml says {spec.dtype} {(shape[0], *spec.shape)}"
        )


class Compiled(nn.Module):
    """Native code of a network with its weights, for batches of every size."""

    def __init__(self, package: Path):
        super().__init__()
        self.host_bytes = package.stat().st_size
        # Shapes are checked before the engine queues an item; here once more: native code would read beyond its end.
        os.environ["AOTI_RUNTIME_CHECK_INPUTS"] = "1"
        # What torch._inductor.aoti_load_package leads to, without the compiler that it imports: that takes seconds, and
        # asks the C++ compiler which instructions there are.
        self._loader = torch._C._aoti.AOTIModelPackageLoader(str(package), "model", False, 1, -1)

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        [result] = self._loader.boxed_run([batch])
        assert isinstance(result, torch.Tensor)
        return result


def read_network(
    bundle: Bundle,
    directory: Path,
    allowed: Collection[str] = (),
    device: torch.device = torch.device("cpu"),  # noqa: B008
) -> nn.Module:
    """Return the bundle's network with its weights, float32 on the CPU.

    Args:
        allowed: sums of the programs of bundles that may run here.
        device: where onnxruntime will compute a network that is ONNX, which cannot be moved.

    Raises:
        BundleError: see `Model.load`.
    """
    manifest = _manifest_of(bundle, directory)
    user_code.require_allowed(manifest, bundle.name, bundle.code_files, allowed)
    if bundle.codec:
        coded.require_codec(bundle.codec_source, directory / bundle.codec)
    if bundle.recommendation:
        module: nn.Module = read_recommender(bundle, manifest)
    elif bundle.code:
        module = guarded(lambda: coded.load(manifest, bundle.code, read_tensors(manifest, bundle.weights)))
        check_tokenizer(bundle, None, str(directory / "bundle.yaml"))
    elif bundle.onnx:
        module = _session(bundle, manifest, device)
    elif bundle.operations:
        module = _program(bundle, bundle.operations, manifest)
    else:
        module = _chain(bundle, manifest)
    return module.requires_grad_(False).eval()


def _check_network(bundle: Bundle, directory: Path) -> None:
    if bundle.operations:
        _empty_program(bundle, bundle.operations, directory)
    else:
        _empty_network(bundle, directory)


def _chain(bundle: Bundle, manifest: Manifest) -> nn.Module:
    """The layers of `network` with their weights."""
    module = _empty_network(bundle, manifest.directory)
    weights = read_tensors(manifest, bundle.weights)
    _check_weights(module.state_dict(), weights, f"{manifest.directory / bundle.weights}")
    module.load_state_dict(weights, strict=True, assign=True)
    return module


def _program(bundle: Bundle, operations: Program, manifest: Manifest) -> nn.Module:
    """The module of `program` with its weights."""
    module = _empty_program(bundle, operations, manifest.directory)
    weights = read_tensors(manifest, bundle.weights)
    _check_weights(program.weights_of(operations), weights, f"{manifest.directory / bundle.weights}")
    program.load(module, operations, weights)
    return module


def _session(bundle: Bundle, manifest: Manifest, device: torch.device) -> nn.Module:
    """The file of `onnx` in onnxruntime. What is checked are the bytes that it gets."""
    content = manifest.read(bundle.onnx, MAX_ONNX_BYTES)
    graph = read_onnx(content, str(manifest.directory / bundle.onnx))
    check_tokenizer(bundle, graph.id_limit, str(manifest.directory / "bundle.yaml"))
    return guarded(lambda: onnx.OnnxSession(content, graph, device, str(manifest.directory / bundle.onnx)))


def _empty_program(bundle: Bundle, operations: Program, directory: Path) -> program.ProgramModule:
    module = program.build(operations)
    spec = bundle.input
    for shape in sorted({spec.smallest, spec.largest}):
        items = spec.most_items(shape, bundle.max_items, bundle.max_cost)
        program.require_fit(module, (items, *shape), _torch_dtype(spec), str(directory / bundle.program))
    check_tokenizer(bundle, operations.id_limit, str(directory / "bundle.yaml"))
    return module


def _empty_network(bundle: Bundle, directory: Path) -> nn.Module:
    source = str(directory / "bundle.yaml")
    # Without memory behind it: a bundle that announces more than its weights hold costs nothing.
    with torch.device("meta"):
        module = network.build(bundle.network, source)
    network.check_ids(bundle.network, bundle.input.dtype, source)
    check_tokenizer(bundle, network.id_limit(bundle.network), source)
    return module


def formed(module: nn.Module, form: ModelVariant) -> nn.Module:
    """Return the network with its weights in the precision and layout of the form."""
    if form.channels_last:
        module = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    # The weights are float32, and casts may be to more.
    return module if form.precision == "float32" else module.to(dtype_of(form))


def dtype_of(form: ModelVariant) -> torch.dtype:
    found = getattr(torch, form.precision)
    assert isinstance(found, torch.dtype)
    return found


def _manifest_of(bundle: Bundle, directory: Path) -> Manifest:
    """The SHA256SUMS that the bundle was read by, signature and all: the weights have to be those that it lists."""
    manifest = read_manifest(directory)
    if manifest.digest != bundle.digest:
        raise BundleError(f"{directory}: has changed while it was loaded; load it again")
    return manifest


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
    return f"{_shown_dtype(tensor.dtype)} {list(tensor.shape)}"


def _shown_dtype(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _torch_dtype(spec: Tensor) -> torch.dtype:
    found = getattr(torch, spec.dtype)
    assert isinstance(found, torch.dtype)
    return found
