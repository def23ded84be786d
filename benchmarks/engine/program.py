"""The real engine program around a model of known cost.

python -m benchmarks.engine.program --settings engine.yaml --device cpu0 --model sleeping --base-ms 20 --item-ms 10
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from bedplate.bundle.bundle import Bundle
from bedplate.process import notify


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engine.program")
    parser.add_argument("--settings", type=Path, required=True)
    parser.add_argument("--device", required=True)
    parser.add_argument("--model", choices=["sleeping", "network", "weighted", "bundle"], required=True)
    parser.add_argument("--base-ms", type=float, default=20, help="of a batch, for 'sleeping' (20)")
    parser.add_argument("--item-ms", type=float, default=10, help="of each item, for 'sleeping' (10)")
    args = parser.parse_args()
    _tell_import_of_torch()
    # The import of torch was measured apart from everything else, so these come after it.
    import torch  # noqa: PLC0415
    from bedplate.engine.main import run  # noqa: PLC0415
    from bedplate.engine.model import Model  # noqa: PLC0415
    from bedplate.engine.settings import EngineSettings  # noqa: PLC0415
    from bedplate.engine.variant import ModelVariant  # noqa: PLC0415
    from bedplate.process import settings  # noqa: PLC0415

    from benchmarks.engine.models import Sleeping, load_network, load_weighted  # noqa: PLC0415

    def load_sleeping(bundle: Bundle, directory: Path, device: torch.device, form: ModelVariant) -> Model:
        sleeping = Sleeping(int(bundle.version), args.base_ms / 1e3, args.item_ms / 1e3)
        return Model(bundle, sleeping.eval(), device)

    load = {"sleeping": load_sleeping, "network": load_network, "weighted": load_weighted, "bundle": Model.load}[
        args.model
    ]
    return run(settings.load(EngineSettings, args.settings), args.device, load)


def _tell_import_of_torch() -> None:
    started = time.monotonic()
    import torch  # noqa: F401, PLC0415

    notify.notify(f"X_TORCH_IMPORT_S={time.monotonic() - started:.3f}")


if __name__ == "__main__":
    sys.exit(main())
