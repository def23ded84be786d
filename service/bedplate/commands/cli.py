"""The command `bedplate`: starts the programs of a host, and works with bundles, models and predictions.

Imports happen inside the commands: `web` never loads torch, `engine` never loads falcon, `decode` and
`metrics` load neither.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bedplate import __version__
from bedplate.commands import bundle_import
from bedplate.commands import models as models_command
from bedplate.commands import predict as predict_command
from bedplate.process.settings import SettingsError

_BAD_SETTINGS = 2


def main(argv: list[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    try:
        return int(args.run(args) or 0)
    except SettingsError as error:
        print(f"bedplate: {error}", file=sys.stderr)
        return _BAD_SETTINGS


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bedplate", description="Serve torch models over HTTP.")
    parser.add_argument("--version", action="version", version=f"bedplate {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    serve = commands.add_parser("serve", help="serve bundles on this machine: both programs, no Ansible")
    serve.add_argument("bundles", nargs="+", type=Path, metavar="BUNDLE", help="directory with bundle.yaml")
    serve.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    serve.add_argument("--port", type=int, default=8000, help="TCP port (default: %(default)s)")
    _add_allow_code(serve)
    serve.set_defaults(run=_serve)

    web = commands.add_parser("web", help="the front end; systemd starts it")
    web.add_argument("--settings", type=Path, required=True)
    web.add_argument("--bind", metavar="HOST:PORT", help="listen here; without it on the sockets systemd passes")
    web.add_argument("--instance", metavar="N", help="number of this front end on the host")
    web.set_defaults(run=_web)

    decode = commands.add_parser("decode", help="turns files into tensors, for the front ends; systemd starts it")
    decode.add_argument("--settings", type=Path, required=True)
    decode.add_argument("--instance", required=True, metavar="N", help="number of this decoder on the host")
    decode.set_defaults(run=_decode)

    engine = commands.add_parser("engine", help="the process of one device; systemd starts it")
    engine.add_argument("--settings", type=Path, required=True)
    engine.add_argument("--device", required=True, metavar="cpuN|gpuN")
    engine.set_defaults(run=_engine)

    canary = commands.add_parser("canary", help="ask running front ends for predictions with known answers")
    canary.add_argument("--settings", type=Path, required=True, help="the engine's, which name the bundles")
    canary.add_argument("--timeout", type=float, default=30, metavar="SECONDS")
    canary.add_argument("urls", nargs="+", metavar="URL", help="http://HOST:PORT of a front end; the API key on stdin")
    canary.set_defaults(run=_canary)

    engines = commands.add_parser("engines", help="find how many engines of how many threads this host does best with")
    engines.add_argument("bundles", nargs="+", type=Path, metavar="BUNDLE", help="directory with bundle.yaml")
    engines.add_argument("--cores", type=int, metavar="N", help="share out the last N cores (default: all)")
    engines.add_argument("--rounds", type=int, default=3, help="measurements of each split (default: %(default)s)")
    engines.add_argument("--seconds", type=float, default=3, help="of each measurement (default: %(default)s)")
    _add_allow_code(engines)
    engines.set_defaults(run=_engines)

    bundle = commands.add_parser("bundle", help="make, check, inspect, sign and verify bundles")
    _add_bundle_arguments(bundle)
    bundle.set_defaults(run=_bundle)

    models = commands.add_parser("models", help="list, load, promote and unload models of the running engines")
    models_command.add_arguments(models)
    models.set_defaults(run=models_command.run)

    predict = commands.add_parser("predict", help="ask a deployment about files, from anywhere")
    predict_command.add_arguments(predict)
    predict.set_defaults(run=predict_command.run)

    metrics = commands.add_parser("metrics", help="tells Prometheus what all of them count; systemd starts it")
    metrics.add_argument("--settings", type=Path, required=True)
    metrics.add_argument("--bind", metavar="HOST:PORT", help="listen here; without it on the socket systemd passes")
    metrics.set_defaults(run=_metrics)

    gpu_metrics = commands.add_parser("gpu-metrics", help="tells them what NVIDIA's library says; systemd starts it")
    gpu_metrics.add_argument("--settings", type=Path, required=True)
    gpu_metrics.set_defaults(run=_gpu_metrics)
    return parser


def _add_bundle_arguments(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="do", required=True, metavar="VERB")
    new = verbs.add_parser("new", help="a directory with a bundle.yaml to edit")
    new.add_argument("name", help="of the model; the directory is called the same")
    new.add_argument("--task", default="image-classification", help="what to begin with (default: %(default)s)")

    directory = argparse.ArgumentParser(add_help=False)
    directory.add_argument("directory", type=Path, metavar="DIR", help="the bundle")
    signers = argparse.ArgumentParser(add_help=False)
    signers.add_argument("--signers", type=Path, metavar="FILE", help="who may sign, as OpenSSH's allowed_signers")

    check = verbs.add_parser("check", parents=[directory], help="ask its canary and compute its validation set")
    check.add_argument("--precision", choices=["float32", "bfloat16"], default="float32", help="default: %(default)s")
    check.add_argument("--canary-only", action="store_true", help="leave the validation set out, or do without one")
    _add_allow_code(check)
    bundle_import.add_arguments(verbs.add_parser("import", help="make one of a model of Hugging Face or torch"))
    inspect = verbs.add_parser("inspect", parents=[directory, signers], help="what is in it, and who signed it")
    inspect.add_argument("--json", action="store_true", help="one JSON object, for programs")
    sign = verbs.add_parser("sign", parents=[directory], help="sum its files up as they are, and sign that")
    sign.add_argument("--key", type=Path, required=True, help="a private key, as 'ssh-keygen -t ed25519' makes one")
    _add_optimize_arguments(verbs.add_parser("optimize", help="find the form in which they pay most on this host"))
    verbs.add_parser("verify", parents=[directory, signers], help="compare its files, and ask whose signature it has")


def _add_optimize_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directories", nargs="*", type=Path, metavar="DIR", help="the bundles")
    parser.add_argument("--settings", type=Path, metavar="FILE", help="an engine's, which name bundles and threads")
    parser.add_argument("--device", default="cpu0", metavar="cpuN|gpuN", help="of the engine (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="of the engine (default: %(default)s)")
    parser.add_argument("--forms", metavar="FORM,…", help="try only these beside float32 (default: all)")
    parser.add_argument("--accuracy-loss", type=float, default=0.5, metavar="POINTS", help="(default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=2, help="of each measurement (default: %(default)s)")
    parser.add_argument(
        "--limit", type=float, default=300, metavar="SECONDS", help="of each step (default: %(default)s)"
    )
    parser.add_argument("--output", type=Path, metavar="DIR", help="keep the best here, where engines' prepared_dir is")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw accuracy and items/s; needs matplotlib")
    parser.add_argument("--onnx", type=Path, metavar="FILE", help="export too, checked by onnxruntime; needs onnx")
    parser.add_argument("--json", action="store_true", help="one JSON object for each bundle, for programs")


def _add_allow_code(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--allow-code", action="store_true", help="run the programs that the bundle brings; read them")


def _serve(args: argparse.Namespace) -> int:
    from bedplate.commands.serve import serve

    return serve(args.bundles, args.host, args.port, args.allow_code)


def _web(args: argparse.Namespace) -> int:
    from bedplate.web.main import run

    return run(args.settings, args.bind, args.instance)


def _decode(args: argparse.Namespace) -> int:
    from bedplate.decode.main import run

    return run(args.settings, args.instance)


def _engine(args: argparse.Namespace) -> int:
    from bedplate.engine.main import run
    from bedplate.engine.settings import EngineSettings
    from bedplate.process import settings

    return run(settings.load(EngineSettings, args.settings), args.device)


def _canary(args: argparse.Namespace) -> int:
    from bedplate.commands.canary import run

    return run(args.settings, args.urls, args.timeout)


def _engines(args: argparse.Namespace) -> int:
    from bedplate.commands.engines import run

    return run(args.bundles, args.cores, args.rounds, args.seconds, args.allow_code)


def _bundle(args: argparse.Namespace) -> int:
    from bedplate.commands import bundle as bundle_command

    return bundle_command.run(args)


def _metrics(args: argparse.Namespace) -> int:
    from bedplate.metrics.main import run
    from bedplate.metrics.settings import MetricsSettings
    from bedplate.process import settings

    return run(settings.load(MetricsSettings, args.settings), args.bind)


def _gpu_metrics(args: argparse.Namespace) -> int:
    from bedplate.gpu_metrics.main import run
    from bedplate.gpu_metrics.settings import GpuMetricsSettings
    from bedplate.process import settings

    return run(settings.load(GpuMetricsSettings, args.settings))
