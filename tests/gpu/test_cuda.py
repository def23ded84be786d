"""What only a GPU can show: two batches overlap, and each gets the answers that a processor would give it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from bedplate.bundle import dtypes
from bedplate.bundle.bundle import read_bundle
from bedplate.bundle.recommendation import questions, suggestions_in
from bedplate.engine.cuda import Pipeline
from bedplate.engine.faults import DeviceOutOfMemory
from bedplate.engine.model import Model
from bedplate.engine.variant import ModelVariant

from tests.service.engine_tools import write_bundle, write_lamp
from tests.service.lamp import VARYING, numbers
from tests.service.shop import USERS, write_shop

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not torch.cuda.is_available(), reason="torch sees no GPU: bedplate/engine/cuda.py is not tested"
    ),
]
CPU, GPU = torch.device("cpu"), torch.device("cuda:0")
CHANNELS = 64
NETWORK = [
    {"conv2d": {"in_channels": 1, "out_channels": CHANNELS, "kernel_size": 3, "padding": 1}},
    "relu",
    {"adaptive_avg_pool2d": {"output_size": 1}},
    "flatten",
    {"linear": {"in_features": CHANNELS, "out_features": 2}},
]
# Convolutions on a GPU may round to TensorFloat-32, of 10 bits.
NEARLY = 5e-3


def noise(*shape, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A bundle of 1 x 2..512 x 2..512 numbers, 64 items and four of the largest at once."""
    weights = {
        "0.weight": torch.from_numpy(noise(CHANNELS, 1, 3, 3)),
        "0.bias": torch.from_numpy(noise(CHANNELS)),
        "4.weight": torch.from_numpy(noise(2, CHANNELS)),
        "4.bias": torch.from_numpy(noise(2)),
    }
    inputs = [{"name": "image", "dtype": "float32", "shape": [1, [2, 512], [2, 512]]}]
    changes = {**VARYING, "network": NETWORK, "inputs": inputs, "batch": {"max_items": 64, "max_cost": 4 * 512 * 512}}
    return write_lamp(tmp_path_factory.mktemp("bundles") / "pooled", weights, **changes)


@pytest.fixture
def load(directory):
    return lambda device, precision="float32": Model.load(
        read_bundle(directory), directory, device, ModelVariant(precision)
    )


def overlapped(begin, batches):
    """The answers to `batches`, two of which are always under way."""
    answers, under_way = [], None
    for batch in batches:
        begun = begin(batch)
        if under_way:
            answers.append(under_way())
        under_way = begun
    return [*answers, under_way()]


@pytest.mark.parametrize("shape", [(1, 1, 2, 2), (64, 1, 8, 6), (3, 1, 512, 200)])
def test_a_gpu_answers_as_a_processor_does(load, shape):
    answer = load(GPU).run(noise(*shape))

    assert answer.dtype == np.float32
    assert np.allclose(answer, load(CPU).run(noise(*shape)), atol=NEARLY)


def test_overlapping_batches_of_any_size_get_their_own_answers(load):
    model, reference = load(GPU), load(CPU)
    sizes = np.random.default_rng(seed=1).integers([1, 2, 2], [65, 40, 40], (200, 3))
    batches = [noise(items, 1, height, width, seed=n) for n, (items, height, width) in enumerate(sizes)]

    answers = overlapped(model.begin, batches)

    assert model.overlaps
    for batch, answer in zip(batches, answers, strict=True):
        assert np.allclose(answer, reference.run(batch), atol=NEARLY)


def test_a_third_batch_under_way_is_refused_and_the_first_two_are_answered(load):
    model = load(GPU)
    first, second = noise(4, 1, 8, 8, seed=1), noise(4, 1, 8, 8, seed=2)
    finishes = [model.begin(first), model.begin(second)]

    with pytest.raises(RuntimeError, match="2 batches are under way"):
        model.begin(noise(4, 1, 8, 8))

    for batch, finish in zip((first, second), finishes, strict=True):
        assert np.allclose(finish(), load(CPU).run(batch), atol=NEARLY)


def test_batches_can_be_run_while_another_is_under_way(load):
    model, reference = load(GPU), load(CPU)
    batches = [noise(4, 1, 8, 8, seed=n) for n in range(4)]
    under_way = model.begin(batches[0])

    answers = [model.run(batch) for batch in batches[1:]]

    for batch, answer in zip(batches, [under_way(), *answers], strict=True):
        assert np.allclose(answer, reference.run(batch), atol=NEARLY)


def test_bfloat16_answers_nearly_the_same(load):
    answer = load(GPU, "bfloat16").run(noise(8, 1, 16, 16))

    assert answer.dtype == np.float32
    assert np.allclose(answer, load(CPU).run(noise(8, 1, 16, 16)), atol=0.1)


@pytest.mark.parametrize("dtype", dtypes.HOLDERS)
def test_numbers_of_every_datatype_go_to_the_gpu_and_back_bit_by_bit(tmp_path, dtype):
    same = write_bundle(tmp_path / "same", {}, numbers(dtype))
    model = Model.load(read_bundle(same), same, GPU)
    model.warm_up()
    batches = [dtypes.from_numbers(dtype, abs(noise(items, 2, 3, seed=items)) * 100) for items in (1, 8, 3, 5)]

    answers = overlapped(model.begin, batches)

    for batch, answer in zip(batches, answers, strict=True):
        assert (answer.dtype, answer.tobytes()) == (batch.dtype, batch.tobytes())


@pytest.fixture
def little_memory():
    """All but 512 MiB of the GPU's memory is taken."""
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info(GPU)
    taken = torch.empty(free - (512 << 20), dtype=torch.uint8, device=GPU)
    yield
    del taken
    torch.cuda.empty_cache()


def test_a_batch_that_lacks_memory_says_so_and_neither_its_neighbour_nor_the_next_suffers(load, little_memory):
    model, reference = load(GPU), load(CPU)
    small, large = noise(2, 1, 16, 16), noise(64, 1, 512, 512)  # the large one needs 4 GiB after its first layer
    under_way = model.begin(small)

    with pytest.raises(DeviceOutOfMemory):
        model.run(large)

    assert np.allclose(under_way(), reference.run(small), atol=NEARLY)
    assert np.allclose(model.run(small), reference.run(small), atol=NEARLY)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_recorded_graph_answers_what_a_plain_call_answers(load, precision):
    model = load(GPU, precision)
    plain, recorded = (Pipeline(model.predict, GPU, worth_replaying=share) for share in (0, float("inf")))
    batches = [noise(items, 1, 8, 8, seed=n) for n, items in enumerate([1, 4, 4, 1, 3, 4, 1, 1] * 10)]
    for pipeline in (plain, recorded):
        for items in (1, 4):
            pipeline.begin(noise(items, 1, 8, 8))()
            pipeline.tune((items, 1, 8, 8))

    answers = overlapped(recorded.begin, batches)

    assert (sorted(plain.graphs), sorted(recorded.graphs)) == ([], [(1, 1, 8, 8), (4, 1, 8, 8)])
    for answer, wanted in zip(answers, overlapped(plain.begin, batches), strict=True):
        assert np.allclose(answer, wanted, atol=1e-5)


def test_a_warm_up_leaves_a_model_that_answers(load):
    model = load(GPU)

    model.warm_up()

    assert np.allclose(model.run(noise(4, 1, 2, 2)), load(CPU).run(noise(4, 1, 2, 2)), atol=NEARLY)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_recommender_suggests_on_a_gpu_what_it_does_on_a_processor(tmp_path, precision):
    directory = write_shop(tmp_path)
    models = [Model.load(read_bundle(directory), directory, device, ModelVariant(precision)) for device in (CPU, GPU)]
    for model in models:
        model.warm_up()
    asked = questions([(user, 3, seen) for user in USERS for seen in (True, False)])

    on_cpu, on_gpu = (suggestions_in(model.run(asked)) for model in models)

    assert not models[1].overlaps
    assert (on_cpu == on_gpu).all()  # small whole numbers and eighths, which both precisions hold
