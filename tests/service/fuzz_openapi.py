"""python -m tests.service.fuzz_openapi [EXAMPLES]: schemathesis against the service, so many examples an operation.

1,000 unless told otherwise. What it finds it prints, and then it ends with 1. The examples are the same each time.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bedplate.web import openapi

from tests.service.running_service import RunningService, running_service

ROOT = Path(__file__).parents[2]
HOOKS = "tests.service.schemathesis_hooks"
CONFIG = Path(__file__).with_name("schemathesis.toml")
LAMP = {"type": "array", "minItems": 1, "maxItems": 1}
ROW = {"type": "array", "minItems": 2, "maxItems": 2, "items": {"type": "number"}}


def narrowed() -> dict[str, Any]:
    """The document with what the running service serves filled in: without it nearly all that is generated is 404."""
    document: dict[str, Any] = json.loads(openapi.document())
    components = document["components"]
    parameters, schemas = components["parameters"], components["schemas"]
    parameters["Name"]["schema"] = {"enum": ["lamp"]}
    parameters["Version"]["schema"] = {"enum": ["1", "default"]}
    # See schemathesis_hooks.py.
    schemas["InferRequest"]["properties"]["parameters"]["properties"]["timeout"]["minimum"] = 10_000_000
    item = {**LAMP, "items": {**LAMP, "minItems": 2, "maxItems": 2, "items": ROW}}
    schemas["Inputs"] = {"type": "array", "minItems": 1, "maxItems": 8, "items": item}
    schemas["InferInput"]["properties"] |= {
        "name": {"const": "image"},
        "shape": {"const": [1, 1, 2, 2]},
        "datatype": {"const": "FP32"},
        "data": {**ROW, "minItems": 4, "maxItems": 4},
    }
    schemas["InferInput"]["required"].append("data")
    schemas["OutputName"] = {"const": "logits"}
    return document


def fuzz(service: RunningService, folder: Path, examples: int) -> subprocess.CompletedProcess[str]:
    document = folder / "openapi.json"
    document.write_text(json.dumps(narrowed()))
    options = ["--no-color", "--config-file", CONFIG, "run", document, "--url", service.url]
    options += ["--header", f"Authorization: Bearer {service.key}", "--checks", "all", "--continue-on-failure"]
    options += [
        "--max-examples",
        str(examples),
        "--seed",
        "1",
        "--generation-deterministic",
        "--phases",
        "examples,coverage,fuzzing,stateful",
    ]
    command = [sys.executable, "-m", "schemathesis.cli", *options]
    environment = {**os.environ, "SCHEMATHESIS_HOOKS": HOOKS, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def main() -> int:
    examples = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    with tempfile.TemporaryDirectory() as name, running_service(Path(name)) as service:
        done = fuzz(service, Path(name), examples)
    print(done.stdout, done.stderr)
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
