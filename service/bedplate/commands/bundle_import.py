"""`bedplate bundle import`: a model as people have it becomes a bundle, on its author's machine.

Imports happen inside, as in cli.py, which asks this for its arguments whatever command is typed.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bedplate.bundle.tensor import Range
    from bedplate.importers.writing import Imported

_PICTURES = "image-classification"
_TABLES = {
    "sklearn": "as joblib.dump writes it",
    "xgboost": ".json or .ubj, as Booster.save_model writes it",
    "lightgbm": ".txt, as Booster.save_model writes it",
}
_VARY = re.compile(r"([1-9][0-9]?)=([0-9]{1,7})\.\.([0-9]{1,7})")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    sources = parser.add_subparsers(dest="source", required=True, metavar="SOURCE")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--output", type=Path, metavar="DIR", help="the bundle (default: the model's name)")
    common.add_argument("--name", help="of the model (default: made of the source)")
    common.add_argument("--version", default="1", help="of the model (default: %(default)s)")
    common.add_argument("--description", default="", help="one line on what it tells")
    common.add_argument("--max-items", type=int, default=64, help="computed at once (default: %(default)s)")
    common.add_argument("--key", type=Path, help="signs with it, as 'bedplate bundle sign' does")

    torch = sources.add_parser("torch", parents=[common], help="a torch.nn.Module, or a .pt2 of torch.export")
    torch.add_argument("place", metavar="MODULE:FACTORY|FILE.pt2", help="what makes the module, or the exported one")
    torch.add_argument(
        "--weights", type=Path, metavar="FILE", help="its state_dict: .safetensors, or as torch.save does"
    )
    torch.add_argument(
        "--example", type=Path, required=True, metavar="FILE", help="inputs, (items, ...): .npy, .safetensors or .json"
    )
    torch.add_argument("--labels", type=Path, metavar="FILE", help="a line for each number of the output; a classifier")
    torch.add_argument(
        "--vary",
        action="append",
        default=[],
        metavar="DIM=LOW..HIGH",
        help="a dimension that varies, 0 being the items",
    )

    onnx = sources.add_parser("onnx", parents=[common], help="an .onnx file of any exporter")
    onnx.add_argument("file", type=Path, metavar="FILE")
    onnx.add_argument("--answer", metavar="NAME", help="the output to keep, of a file that gives several")
    onnx.add_argument(
        "--example", type=Path, metavar="FILE", help="inputs, (items, ...), as of 'torch' (default: drawn)"
    )
    onnx.add_argument("--labels", type=Path, metavar="FILE", help="a line for each number of the output; a classifier")
    onnx.add_argument("--vary", action="append", default=[], metavar="DIM=LOW..HIGH", help="as of 'torch'")
    onnx.add_argument(
        "--activation",
        choices=("softmax", "sigmoid", "none"),
        help="makes scores of the output (default: by its numbers)",
    )
    onnx.add_argument("--task", choices=(_PICTURES,), help="takes pictures, in place of numbers; wants --labels")
    onnx.add_argument("--examples", type=Path, metavar="FOLDER", help="pictures (default: drawn)")
    onnx.add_argument("--mean", type=_numbers, help="of each channel of a picture, such as 0.485,0.456,0.406")
    onnx.add_argument("--std", type=_numbers, help="of each channel of a picture, such as 0.229,0.224,0.225")
    onnx.add_argument("--scale", type=float, help="of each pixel, before mean and std (default: 1/255)")
    onnx.add_argument(
        "--shorter-side", type=int, metavar="PIXELS", help="a picture is resized to, before its middle is cut out"
    )
    onnx.add_argument("--interpolation", help="of pictures that are resized")

    for library, file in _TABLES.items():
        fitted = sources.add_parser(library, parents=[common], help=f"a model of tables: {file}")
        fitted.add_argument("file", type=Path, metavar="FILE")
        fitted.add_argument(
            "--rows",
            type=Path,
            required=True,
            metavar="FILE",
            help="rows to compare by: .npy, or .csv with a line of names",
        )
        fitted.add_argument("--labels", type=Path, metavar="FILE", help="a line for each class (default: the model's)")

    folder = sources.add_parser("hf", parents=[common], help="a folder of Hugging Face: config.json and safetensors")
    folder.add_argument("folder", type=Path, metavar="FOLDER")
    folder.add_argument(
        "--examples", type=Path, metavar="FOLDER|FILE", help="pictures, recordings, or a text a line (default: drawn)"
    )
    folder.add_argument("--max-tokens", type=int, help="of one text (default: what the model was made for)")
    folder.add_argument("--truncate", action="store_true", help="cut a longer text, in place of refusing it")
    folder.add_argument(
        "--pooling",
        choices=["mean", "cls", "last", "pooler"],
        help="answer with a vector, made so of those of its tokens (default: as sentence-transformers' files say)",
    )
    folder.add_argument("--normalize", action="store_true", help="such a vector to the length 1")
    folder.add_argument("--window", type=float, metavar="SECONDS", help="into which recordings are cut")
    folder.add_argument("--part", choices=["image", "text"], default="", help="of a model of both, such as CLIP")


def run(args: argparse.Namespace) -> int:
    """
    Raises:
        BundleError: with what to do.
    """
    from bedplate.bundle.manifest import signing_key
    from bedplate.commands.bundle_facts import tensor_shown
    from bedplate.importers import writing
    from bedplate.importers.offline import stay_offline

    stay_offline()
    imported = {"torch": _torch, "onnx": _onnx, "hf": _hugging_face, **dict.fromkeys(_TABLES, _table)}[args.source](
        args
    )
    name = str(imported.document["name"])
    directory = args.output or Path(name)
    bundle, found = writing.write(directory, imported, args.key)
    graph, program = bundle.graph, bundle.operations
    size = f"{graph.nodes} nodes" if graph else f"{len(program.steps) if program else 0} operations"
    print(f"model:    {name} {bundle.version}, {bundle.task}, {size}")
    print(f"input:    {tensor_shown(bundle.input)}")
    print(f"output:   {tensor_shown(bundle.output)}")
    print(f"batch:    at most {bundle.max_items} items")
    for line in imported.chosen:
        print(f"chosen:   {line}")
    print(f"compared: {found}")
    signed = (
        f"signed by {signing_key(directory)}" if args.key else "not signed; a fleet wants --key, or signs it itself"
    )
    print(f"written:  {directory}, {signed}")
    print(f"Try it:   bedplate serve {directory}")
    return 0


def _torch(args: argparse.Namespace) -> Imported:
    from bedplate.bundle.strict_yaml import BundleError
    from bedplate.importers.torch_module import Wanted, import_exported, import_module

    place = args.place
    wanted = Wanted(
        **_common(args, Path(place).stem if place.endswith(".pt2") else place.partition(":")[2]),
        labels=_labels(args),
        varying=dict(map(_vary, args.vary)),
    )
    if place.endswith(".pt2"):
        if args.weights or args.vary:
            raise BundleError(
                "--weights and --vary: a .pt2 has its weights, and says itself what varies; leave them out"
            )
        return import_exported(Path(place), args.example, wanted)
    return import_module(place, args.weights, args.example, wanted)


def _onnx(args: argparse.Namespace) -> Imported:
    from bedplate.bundle.strict_yaml import BundleError

    try:
        from bedplate.importers.onnx_model import OnnxOptions, import_onnx
    except ModuleNotFoundError as error:
        raise BundleError(f"import onnx: needs {error.name}; run: pip install 'onnx>=1.21'") from None

    picture = {name: getattr(args, name) for name in ("mean", "std", "scale", "interpolation")}
    picture["resize"] = {"shorter_side": args.shorter_side} if args.shorter_side else None
    given = {name: value for name, value in picture.items() if value is not None}
    if (given or args.examples) and args.task != _PICTURES:
        raise BundleError(
            f"--mean, --std, --scale, --shorter-side, --interpolation, --examples: want --task {_PICTURES}"
        )
    options = OnnxOptions(
        **_common(args, args.file.stem),
        labels=_labels(args),
        activation=args.activation or "",
        example=args.example,
        examples=args.examples,
        answer=args.answer,
        varying=dict(map(_vary, args.vary)),
        picture=given if args.task else None,
    )
    return import_onnx(args.file, options)


def _table(args: argparse.Namespace) -> Imported:
    from bedplate.bundle.strict_yaml import BundleError

    try:
        from bedplate.importers.tables import TableOptions, import_table
    except ModuleNotFoundError as error:
        raise BundleError(
            f"import {args.source}: needs {error.name}; run: pip install 'bedplate[import-tables]'"
        ) from None

    options = TableOptions(
        **_common(args, args.file.stem),
        rows=args.rows,
        labels=_labels(args),
    )
    return import_table(args.source, args.file, options)


def _hugging_face(args: argparse.Namespace) -> Imported:
    from bedplate.importers.hugging_face import import_folder
    from bedplate.importers.options import Options

    options = Options(
        **_common(args, args.folder.resolve().name),
        examples=args.examples,
        max_tokens=args.max_tokens,
        truncate=args.truncate,
        pooling=args.pooling,
        normalize=args.normalize,
        window_s=args.window or 0,
        part=args.part,
    )
    return import_folder(args.folder, options)


def _common(args: argparse.Namespace, source: str) -> dict[str, Any]:
    """What is said of a bundle whatever it is imported from; `source` gives its name where nobody did."""
    return {
        "name": _name(args, source),
        "version": args.version,
        "description": args.description,
        "max_items": args.max_items,
    }


def _labels(args: argparse.Namespace) -> Sequence[str]:
    return args.labels.read_text().splitlines() if args.labels else ()


def _name(args: argparse.Namespace, source: str) -> str:
    from bedplate.bundle.bundle import NAME
    from bedplate.bundle.strict_yaml import BundleError

    name: str = args.name or re.sub(r"[^a-z0-9]+", "-", source.lower()).strip("-")[:64] or "model"
    if not re.fullmatch(NAME, name):
        raise BundleError(f"--name: {name!r} does not do, wanted {NAME}")
    return name


def _numbers(text: str) -> list[float]:
    return [float(number) for number in text.split(",")]


def _vary(text: str) -> tuple[int, Range]:
    from bedplate.bundle.strict_yaml import BundleError
    from bedplate.bundle.tensor import Range

    found = _VARY.fullmatch(text)
    if not found or int(found[2]) < 1 or int(found[2]) >= int(found[3]):
        raise BundleError(f"--vary: {text!r} does not do, wanted a dimension and its sizes, such as 1=16..400")
    return int(found[1]), Range(int(found[2]), int(found[3]))
