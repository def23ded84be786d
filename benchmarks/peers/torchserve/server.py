"""TorchServe's side: packs an archive, writes config.properties, becomes its Java program."""

import json
import os
import tempfile
from pathlib import Path

from benchmarks.peers import serving

CONFIG = """\
inference_address=http://127.0.0.1:{port}
management_address=http://127.0.0.1:{management}
metrics_address=http://127.0.0.1:{metrics}
enable_grpc_ol=false
disable_token_authorization=true
default_workers_per_model={workers}
job_queue_size=1000
async_logging=true
enable_metrics_api=false
model_store={folder}
load_models={model}.mar
models={models}
"""


def main() -> None:
    folder = Path(tempfile.mkdtemp(prefix="bench-torchserve-"))
    archive(folder)
    described = {
        "defaultVersion": True,
        "marName": f"{serving.MODEL}.mar",
        "minWorkers": serving.WORKERS,
        "maxWorkers": serving.WORKERS,
        "batchSize": serving.MAX_BATCH,
        "maxBatchDelay": max(1, round(serving.WAIT_MS)),
        "responseTimeout": 120,
    }
    config = CONFIG.format(
        port=serving.PORT,
        management=serving.PORT + 1,
        metrics=serving.PORT + 2,
        workers=serving.WORKERS,
        folder=folder,
        model=serving.MODEL,
        models=json.dumps({serving.MODEL: {"1.0": described}}),
    )
    (folder / "config.properties").write_text(config)
    quiet = folder / "log4j2.xml"
    quiet.write_text(LOG4J)
    os.environ["LOG_LOCATION"] = os.environ["METRICS_LOCATION"] = str(folder)
    command = ["torchserve", "--start", "--foreground", "--ncs", "--ts-config", str(folder / "config.properties")]
    os.execvp("torchserve", [*command, "--log-config", str(quiet)])


LOG4J = """\
<?xml version="1.0" encoding="UTF-8"?>
<Configuration>
  <Appenders><Console name="out"><PatternLayout pattern="%d %p %c - %m%n"/></Console></Appenders>
  <Loggers><Root level="warn"><AppenderRef ref="out"/></Root></Loggers>
</Configuration>
"""


def archive(folder: Path) -> None:
    """What torch-model-archiver makes: a zip of the handler and a manifest."""
    import zipfile  # noqa: PLC0415

    manifest = {
        "createdOn": "01/01/2026 00:00:00",
        "runtime": "python",
        "model": {"modelName": serving.MODEL, "handler": "handler.py", "modelVersion": "1.0"},
        "archiverVersion": "0.12.0",
    }
    with zipfile.ZipFile(folder / f"{serving.MODEL}.mar", "w") as packed:
        packed.write(Path(__file__).with_name("handler.py"), "handler.py")
        packed.writestr("MAR-INF/MANIFEST.json", json.dumps(manifest))


if __name__ == "__main__":
    main()
