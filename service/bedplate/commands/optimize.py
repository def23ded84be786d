"""`bedplate bundle optimize`: find the fastest form of a bundle on this host, print all of them, and keep the best."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from bedplate.bundle.bundle import Bundle, read_bundle
from bedplate.bundle.strict_yaml import BundleError
from bedplate.commands.table import table
from bedplate.engine.prepared import Host
from bedplate.engine.settings import EngineSettings
from bedplate.optimize.candidates import FORMS, Figures, best_of, candidates_for
from bedplate.optimize.trials import TrialOptions, keep, optimize, remembered
from bedplate.process import settings
from bedplate.process.settings import SettingsError

_COLUMNS = ("FORM", "ACCURACY", "DIFFERENCE", "ITEMS/S", "P50 MS", "MEMORY MB", "START S", "BUILD S", "")


def run(args: argparse.Namespace) -> int:
    """Measure every form.

    Raises:
        BundleError, SettingsError: the bundle or an option cannot be used; nothing was measured.
    """
    # Engines believe only what nobody else may write.
    os.umask(os.umask(0o077) | 0o022)
    engine = settings.load(EngineSettings, args.settings) if args.settings else None
    directories = engine.bundles if engine else tuple(args.directories)
    shelf = engine.prepared_dir if engine else args.output
    _check(args, directories)
    options = TrialOptions(
        args.device,
        engine.threads if engine else args.threads,
        sorted(os.sched_getaffinity(0)),
        args.accuracy_loss,
        args.seconds,
        args.limit,
    )
    refused = 0
    for directory in directories:
        try:
            bundle = read_bundle(directory, engine.bundle_signers if engine else None)
            _optimize(bundle, directory, shelf, options, args)
        except BundleError as error:
            # Of a host's bundles one that does not do keeps none of the others from it; the engine tells of it too.
            if not engine:
                raise
            refused = 1
            print(f"bedplate bundle: {error}", file=sys.stderr)
    return refused


def _check(args: argparse.Namespace, directories: Sequence[Path]) -> None:
    if not directories or (args.settings and args.directories):
        raise SettingsError("name bundles, or an engine's settings that list some, and not both")
    if (args.plot or args.onnx) and len(directories) > 1:
        raise SettingsError("--plot and --onnx are of one bundle; name one")
    for name, value, most in (("accuracy-loss", args.accuracy_loss, 100), ("seconds", args.seconds, 60)):
        if not 0 <= value <= most:
            raise SettingsError(f"--{name}: {value} does not do, wanted a number from 0 to {most}")
    if unknown := [form for form in _forms(args) if form not in FORMS]:
        raise SettingsError(f"--forms: {', '.join(unknown)} does not do, wanted some of {', '.join(FORMS)}")
    if args.threads < 1 or not args.limit > 0:
        raise SettingsError(f"--threads {args.threads} --limit {args.limit}: does not do, wanted more than 0")


def _forms(args: argparse.Namespace) -> Sequence[str]:
    return args.forms.split(",") if args.forms else FORMS


def _optimize(
    bundle: Bundle, directory: Path, shelf: Path | None, options: TrialOptions, args: argparse.Namespace
) -> None:
    if reason := _stays_as_it_is(bundle):
        print(f"{bundle.name} {bundle.version}: {reason}")
        return
    host = Host.here(_kind(options.device), options.threads)
    candidates = candidates_for(bundle, _forms(args))
    if shelf and not (args.plot or args.onnx) and remembered(bundle, shelf, host, options, candidates):
        print(f"{bundle.name} {bundle.version}: is optimized already")
        return
    with tempfile.TemporaryDirectory(prefix="bedplate-optimize-") as name:
        figures, package = optimize(bundle, directory, options, Path(name), _say, candidates)
        place = keep(bundle, shelf, host, options, figures, package) if shelf else None
    if args.json:
        print(json.dumps({"name": bundle.name, "best": best_of(figures).name, "figures": list(map(asdict, figures))}))
    else:
        print(report(bundle, figures, options))
    if place:
        print(f"optimized: {place}")
    if args.plot:
        from bedplate.optimize.plot import draw  # noqa: PLC0415 - matplotlib is not on hosts

        draw(bundle, figures, args.plot)
    if args.onnx:
        from bedplate.optimize.onnx import export  # noqa: PLC0415 - neither are onnx and onnxscript

        print(export(bundle, directory, args.onnx))


def _stays_as_it_is(bundle: Bundle) -> str:
    """Return why no form but its own is tried; empty where others are."""
    if bundle.recommendation:
        # It sums up a few rows of a matrix: nothing to compile, and its numbers order the items.
        return "recommends, so it stays as it is"
    if bundle.code_files:
        # Settings of engines say where programs may run, and what may do anything has nothing to be measured by.
        return "brings a program, so it stays as it is"
    if bundle.onnx:
        return "is ONNX and has one form, which onnxruntime optimizes when it loads it"
    return ""


def report(bundle: Bundle, figures: Sequence[Figures], options: TrialOptions) -> str:
    best = best_of(figures).name
    rows = [_COLUMNS, *(_row(one, one.name == best) for one in figures)]
    threads = f"{options.threads} {'thread' if options.threads == 1 else 'threads'}"
    told = (
        f"{bundle.name} {bundle.version} on {options.device}, {threads}; at most {options.accuracy_loss:g} points lost"
    )
    return f"{told}\n{table(rows)}"


def _row(one: Figures, is_best: bool) -> tuple[str, ...]:
    if not one.items_per_s:
        return (one.name, *("-",) * 7, one.refused)
    return (
        one.name,
        "-" if one.accuracy is None else f"{one.accuracy:.4f}",
        f"{one.difference:.1g}",
        f"{one.items_per_s:.1f}",
        f"{one.p50_ms:.2f}",
        f"{one.memory_mb:.0f}",
        f"{one.start_s:.2f}",
        f"{one.build_s:.0f}" if one.build_s else "-",
        "<- serves" if is_best else one.refused,
    )


def _kind(device: str) -> str:
    if not device.startswith("gpu"):
        return "cpu"
    import torch  # noqa: PLC0415 - of a processor's engine all that is asked takes no torch

    return torch.cuda.get_device_name()


def _say(text: str) -> None:
    print(text, file=sys.stderr)
