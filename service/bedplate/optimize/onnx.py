"""Exports a bundle as ONNX with a dynamic batch dimension, and compares onnxruntime's outputs with torch's."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch

from bedplate.bundle import dtypes
from bedplate.bundle.bundle import Bundle
from bedplate.bundle.strict_yaml import BundleError, words_of
from bedplate.engine.cuda import to_numpy
from bedplate.engine.model import Model, read_network
from bedplate.engine.runtime import onnxruntime
from bedplate.engine.trial import full_batch
from bedplate.engine.variant import ModelVariant
from bedplate.optimize import check
from bedplate.optimize.build import AsDeclared, export_arguments
from bedplate.optimize.difference import difference_of
from bedplate.process.settings import SettingsError

_EQUAL = 1e-3  # of the largest number; kernels of another runtime add in another order
_CHECKED = 256


def export(bundle: Bundle, directory: Path, path: Path) -> str:
    """Write the file and return the result of the comparison as text.

    Raises:
        BundleError: torch cannot export it, or onnxruntime computes something else.
        SettingsError: the packages are missing.
    """
    try:
        import onnx  # noqa: F401, PLC0415
        import onnxscript  # noqa: F401, PLC0415
    except ImportError as error:
        raise SettingsError(f"--onnx: needs onnx and onnxscript ({error}); pip install them") from None
    module = AsDeclared(read_network(bundle, directory), bundle, torch.float32)
    example, free = export_arguments(bundle)
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                module,
                (example,),
                str(path),
                dynamo=True,
                external_data=False,
                verbose=False,
                dynamic_shapes=(free,),
                input_names=[bundle.input.name],
                output_names=[bundle.output.name],
            )
    except Exception as error:
        raise BundleError(f"{directory}: cannot be exported as ONNX ({words_of(error)})") from None
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    model = Model.load(bundle, directory, torch.device("cpu"), ModelVariant())
    inputs = _inputs(bundle, directory, model)
    most = bundle.input.most_items(inputs.shape[1:], bundle.max_items, bundle.max_cost)
    worst = 0.0
    for items in sorted({1, min(3, most), most}):
        for start in range(0, min(len(inputs), _CHECKED), items):
            batch = inputs[start : start + items]
            wanted = dtypes.to_numbers(bundle.output.dtype, model.run(batch)).astype(np.float64)
            [found] = session.run(None, {bundle.input.name: batch})
            worst = max(worst, difference_of(found, wanted))
    if worst > _EQUAL:
        raise BundleError(f"{path}: onnxruntime differs from torch by {worst:.1g} of the largest number")
    return f"{path}: onnxruntime computes what torch does, within {worst:.1g} of the largest number"


def _inputs(bundle: Bundle, directory: Path, model: Model) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
    if not bundle.validation or bundle.input.text:
        return full_batch(model)
    return to_numpy(check.validation_set(bundle, directory)[0])
