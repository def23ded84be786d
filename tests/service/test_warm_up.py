"""The first batches of a model teach the engine how long batches take."""

from bedplate.bundle.bundle import read_bundle
from bedplate.engine.batcher import Batcher
from bedplate.engine.metrics import EngineMetrics
from bedplate.engine.model import Model
from bedplate.engine.warm_up import warm_up_steps
from torch import device

from tests.service.engine_tools import write_lamp


def test_each_step_is_one_batch_and_one_lesson(tmp_path):
    directory = write_lamp(tmp_path / "lamp")
    model = Model.load(read_bundle(directory), directory, device("cpu"))
    batcher = Batcher(print, 64, observer=EngineMetrics(), on_lost=print)

    steps = warm_up_steps(model, batcher)
    lessons = []
    for step in steps:
        step()
        lessons.append(batcher.figures(("lamp", "1"))["batches"])

    assert lessons == [1, 2, 3, 4]  # one item, two, four and eight
