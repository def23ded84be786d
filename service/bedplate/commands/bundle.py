"""`bedplate bundle`: create, inspect, check, sign and verify bundles.

The exit status is 0 on success and 1 on failure; the reason goes to standard error.
"""

from __future__ import annotations

import argparse
import importlib.resources
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bedplate.bundle.bundle import BUNDLE_FILE, NAME, Bundle, BundleError, read_bundle
from bedplate.bundle.detection import Detection
from bedplate.bundle.manifest import SIGNATURE, signing_key, write_manifest, write_signature
from bedplate.commands.bundle_facts import tensor_shown
from bedplate.commands.table import table

_REFUSED = 1
# By the task of each; others are made from the nearest.
TEMPLATES = {
    "image-classification": "bundle_template.yaml",
    "tabular-classification": "bundle_template_table.yaml",
    "recommendation": "bundle_template_recommendation.yaml",
}


def run(args: argparse.Namespace) -> int:
    verbs: dict[str, Callable[[argparse.Namespace], int]] = {
        "new": _new,
        "check": _check,
        "inspect": _inspect,
        "sign": _sign,
        "verify": _verify,
        "optimize": _optimize,
        "import": _import,
    }
    try:
        return verbs[args.do](args)
    except BundleError as error:
        return _refuse(str(error))
    except OSError as error:
        return _refuse(f"{error.filename}: {error.strerror}")


def _new(args: argparse.Namespace) -> int:
    directory = Path(args.name)
    if not re.fullmatch(NAME, args.name):
        return _refuse(f"{args.name!r} does not do as a name, wanted {NAME}")
    if args.task not in TEMPLATES:
        return _refuse(f"there is no template for {args.task!r}; begin with {', '.join(TEMPLATES)}")
    if directory.exists():
        return _refuse(f"{directory}: is there already; choose another name, or remove it")
    text = importlib.resources.files("bedplate.commands").joinpath(TEMPLATES[args.task]).read_text()
    directory.mkdir()
    (directory / BUNDLE_FILE).write_text(text.replace("NAME", args.name))
    print(f"{directory / BUNDLE_FILE}: edit it, and put the files beside it that it names. Then:")
    print(f"  bedplate bundle sign {directory} --key KEY\n  bedplate bundle check {directory}")
    return 0


def _check(args: argparse.Namespace) -> int:
    from bedplate.optimize import check

    bundle, model = check.load(args.directory, args.precision, args.allow_code)
    answer, wanted = check.canary_answer(bundle, model), bundle.canary.wanted
    print(f"canary: {answer}, wanted {wanted}")
    found = None if args.canary_only else check.measure(bundle, args.directory, model)
    if found:
        metric, threshold = found.validation.metric, found.validation.threshold
        print(f"{metric}: {found.share:.4f} of {found.items} items, wanted {threshold:g}")
    if answer != wanted:
        return _refuse(f"{args.directory}: the canary gets {answer}, wanted {wanted}; correct bundle.yaml or the model")
    if found and not found.suffices:
        return _refuse(f"{args.directory}: {metric} {found.share:.4f} is below the threshold, {threshold:g}; train on")
    return 0


def _inspect(args: argparse.Namespace) -> int:
    bundle = read_bundle(args.directory, args.signers)
    facts = _facts(bundle, signing_key(args.directory))
    files = {path.name: path.stat().st_size for path in sorted(args.directory.iterdir())}
    if args.json:
        print(json.dumps({**facts, "files": files}))
        return 0
    print(table([(key, _shown(value)) for key, value in facts.items()]))
    print()
    print(table([("FILE", "BYTES"), *((name, str(size)) for name, size in files.items())]))
    return 0


def _sign(args: argparse.Namespace) -> int:
    write_manifest(args.directory)
    # What no engine would take is not worth a signature.
    bundle = read_bundle(args.directory)
    write_signature(args.directory, args.key)
    print(f"{args.directory / SIGNATURE}: {bundle.name} {bundle.version} by {signing_key(args.directory)}")
    return 0


def _verify(args: argparse.Namespace) -> int:
    bundle = read_bundle(args.directory, args.signers)
    signed = f"signed by {bundle.signer}" if bundle.signer else "not asked who signed it; name --signers"
    print(f"{args.directory}: {bundle.name} {bundle.version} is whole, {signed}")
    return 0


def _optimize(args: argparse.Namespace) -> int:
    from bedplate.commands import optimize

    return optimize.run(args)


def _import(args: argparse.Namespace) -> int:
    from bedplate.commands import bundle_import

    return bundle_import.run(args)


def _facts(bundle: Bundle, key: str | None) -> dict[str, Any]:
    validation = bundle.validation
    return {
        "name": bundle.name,
        "version": bundle.version,
        "description": bundle.description,
        "task": bundle.task,
        "labels": len(bundle.labels),
        "activation": bundle.activation,
        "input": tensor_shown(bundle.input),
        "output": tensor_shown(bundle.output),
        "detection": _boxes(bundle.detection) if bundle.detection else None,
        "batch": f"at most {bundle.max_items} items that cost {bundle.max_cost} together",
        "layers": len(bundle.network),
        "program": f"{len(bundle.operations.steps)} operations" if bundle.operations else None,
        "onnx": f"{bundle.graph.nodes} nodes" if bundle.graph else None,
        "recommends": f"at most {bundle.recommendation.max_k} items" if bundle.recommendation else None,
        "code": bundle.code or None,
        "codec": bundle.codec or None,
        "validation": f"{validation.metric} at least {validation.threshold:g}" if validation else None,
        "canary": bundle.canary.wanted,
        "digest": bundle.digest,
        "signature": key,
        "signer": bundle.signer or None,
    }


def _boxes(spec: Detection) -> str:
    return (
        f"at most {spec.max_boxes} boxes of a picture, {spec.box_format}, of a score from {spec.score_threshold:g}, "
        f"that overlap by {spec.iou_threshold:g} at most"
    )


def _shown(value: object) -> str:
    return "-" if value is None else str(value)


def _refuse(message: str) -> int:
    print(f"bedplate bundle: {message}", file=sys.stderr)
    return _REFUSED
