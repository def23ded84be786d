"""What the protocol tells of the server and its models, as documents."""

from __future__ import annotations

from typing import Any

from bedplate import __version__
from bedplate.bundle.bundle import Bundle
from bedplate.bundle.tensor import Range, Tensor
from bedplate.web.engines.served import Served
from bedplate.web.oip.datatypes import datatype_of

EXTENSIONS = (
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "parameters",
    "schedule_policy",
    "statistics",
)
_PLATFORM = "pytorch"

SERVER = {"name": "bedplate", "version": __version__, "extensions": list(EXTENSIONS)}

# There is one log, the journal, and nobody changes it from outside.
LOGGING = {
    "log_file": "",
    "log_info": True,
    "log_warning": True,
    "log_error": True,
    "log_verbose_level": 0,
    "log_format": "default",
}


def model_metadata(model: Bundle, served: Served) -> dict[str, Any]:
    return {
        "name": model.name,
        "versions": served.versions(model.name),
        "platform": _PLATFORM,
        "inputs": [_tensor(model.input)],
        "outputs": [_tensor(model.output)],
    }


def _tensor(spec: Tensor) -> dict[str, Any]:
    return {"name": spec.name, "datatype": datatype_of(spec).name, "shape": [-1, *_dimensions(spec)]}


def model_config(model: Bundle, max_items: int) -> dict[str, Any]:
    """What there is of Triton's model configuration: enough to know what to send.

    Args:
        max_items: that one request may have.
    """
    return {
        "name": model.name,
        "platform": _PLATFORM,
        "backend": _PLATFORM,
        "version_policy": {"all": {}},
        "max_batch_size": max_items,
        "input": [_config(model.input)],
        "output": [{**_config(model.output), "label_filename": ""}],
        "dynamic_batching": {},
        "parameters": {
            "version": {"string_value": model.version},
            "task": {"string_value": model.task},
            "description": {"string_value": model.description},
        },
    }


def _config(spec: Tensor) -> dict[str, Any]:
    return {"name": spec.name, "data_type": f"TYPE_{datatype_of(spec).name}", "dims": _dimensions(spec)}


def _dimensions(spec: Tensor) -> list[int]:
    return [-1 if isinstance(size, Range) else size for size in spec.shape]


def repository_index(served: Served) -> list[dict[str, str]]:
    return [
        {"name": name, "version": version, "state": "READY", "reason": ""} for name, version in sorted(served.bundles)
    ]
