"""Programs that bundles bring: the check that they may run here, and their conversion to functions (docs/adr/0021).

Nothing is imported by path: only the bytes whose sum was compared run.
"""

from __future__ import annotations

import ast
import linecache
import sys
import traceback
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from bedplate.bundle.manifest import Manifest
from bedplate.bundle.strict_yaml import BundleError

FILE_NAME = r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}\.py"
MAX_BYTES = 48 << 10
MODEL = ("load", "predict")  # run by engines
CODEC = ("decode", "encode")  # run by decoders
_SHOWN = "<bundle's "

Function = Callable[..., Any]


class CodeFault(RuntimeError):
    """A bundle's program failed. The message says how, and quotes nothing of the program's input."""


def require_functions(source: bytes, names: Sequence[str], path: Path) -> None:
    """Check a program without running it.

    Raises:
        BundleError: it is not a program, or lacks one of the functions.
    """
    try:
        body = ast.parse(source).body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        where = f", line {error.lineno}" if isinstance(error, SyntaxError) else ""
        raise BundleError(f"{path}: is no Python ({type(error).__name__}{where})") from None
    found = {node.name for node in body if isinstance(node, ast.FunctionDef)}
    for name in names:
        if name not in found:
            raise BundleError(f"{path}: has no function '{name}'; wanted {' and '.join(names)} (docs/bundles.md)")


def require_allowed(manifest: Manifest, name: str, programs: Sequence[str], allowed: Collection[str]) -> None:
    """Check that the programs of the bundle `name` may run here.

    Args:
        allowed: sums of the programs that may run.

    Raises:
        BundleError: one of them may not.
    """
    for program in programs:
        if manifest.sums[program] not in allowed:
            raise BundleError(
                f"{manifest.directory / program}: is a program, and this host does not run it; read it, then add "
                f"'{name}' to bedplate_bundles_with_code in group_vars/inference.yml and run playbooks/inference.yml "
                "(on a laptop: --allow-code)"
            )


def functions_of(source: bytes, digest: str, names: Sequence[str], file_name: str) -> list[Function]:
    """Run the program and return its functions.

    Args:
        digest: the sum of `source`, under which the module is registered; two versions of a program never meet.

    Raises:
        CodeFault: the program does not run.
    """
    module = ModuleType(f"bedplate_code_{digest}")
    shown = f"{_SHOWN}{file_name} {digest[:12]}>"
    # For tracebacks; there is no file of this name.
    linecache.cache[shown] = len(source), None, source.decode("utf-8", "replace").splitlines(keepends=True), shown
    # Dataclasses look their module up.
    sys.modules[module.__name__] = module

    def run() -> list[Function]:
        exec(compile(source, shown, "exec", dont_inherit=True), vars(module))
        return [getattr(module, name) for name in names]

    found: list[Function] = called(run)
    return found


def called(function: Function, *arguments: Any, passing: tuple[type[Exception], ...] = (MemoryError,)) -> Any:
    """Call a bundle's function and return its result.

    Args:
        passing: errors that pass through to the caller unchanged.

    Raises:
        CodeFault: the function failed, or tried to end the process.
    """
    try:
        return function(*arguments)
    except passing:
        raise
    except (Exception, SystemExit) as error:
        fault = CodeFault(f"{type(error).__name__} in {_place(error)}")
    # Out here, where the error is gone, and what its traceback held.
    raise fault


def _place(error: BaseException) -> str:
    """Where in the bundle's program. What the error says may quote what a stranger sent."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.startswith(_SHOWN)]
    return f"line {frames[-1].lineno} of {frames[-1].filename[1:-1]}" if frames else "the program"


def main() -> int:
    """Exit with 0 if the codec on standard input runs; otherwise write the reason to standard error."""
    try:
        functions_of(sys.stdin.buffer.read(), sys.argv[1], CODEC, "codec")
    except (CodeFault, MemoryError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
