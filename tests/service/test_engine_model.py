"""Networks come as data from an allow-list, and weights must be exactly theirs."""

import math
from dataclasses import replace
from random import Random

import numpy as np
import pytest
import torch
from bedplate.bundle.bundle import BundleError, Layer, read_bundle, write_manifest
from bedplate.bundle.tokenizer import check_tokenizer
from bedplate.engine import network
from bedplate.engine.faults import DeviceLost, DeviceOutOfMemory
from bedplate.engine.model import Model
from bedplate.engine.variant import ModelVariant
from torch import nn

from tests.service import text_tools
from tests.service.engine_tools import NETWORK, WEIGHTS, bright, write_bundle, write_lamp
from tests.service.lamp import VARYING, lamp_logits
from tests.service.media_tools import damaged

CPU = torch.device("cpu")
POOLED = [
    {"conv2d": {"in_channels": 1, "out_channels": 3, "kernel_size": 3, "padding": 1}},
    {"adaptive_avg_pool2d": {"output_size": 1}},
    "flatten",
    {"linear": {"in_features": 3, "out_features": 2}},
]
POOLED_WEIGHTS = {
    "0.weight": torch.linspace(-1, 1, 27).reshape(3, 1, 3, 3),
    "0.bias": torch.tensor([0.1, 0.2, 0.3]),
    "3.weight": torch.linspace(-1, 1, 6).reshape(2, 3),
    "3.bias": torch.tensor([0.5, -0.5]),
}


def load(directory, precision="float32"):
    return Model.load(read_bundle(directory), directory, CPU, ModelVariant(precision))


def write_pooled(directory, **changes):
    """A network that takes pictures of any height and width."""
    return write_lamp(directory, POOLED_WEIGHTS, **{**VARYING, "network": POOLED, **changes})


def noise(*shape):
    return np.random.default_rng(seed=0).uniform(-1, 1, shape).astype(np.float32)


def test_a_loaded_model_computes_what_its_network_says(tmp_path):
    model = load(write_lamp(tmp_path / "lamp"))

    result = model.run(bright(3, 0.5))

    assert np.allclose(result, lamp_logits(bright(3, 0.5)))
    assert result.dtype == np.float32


def test_a_loaded_model_does_not_train(tmp_path):
    layers = ["flatten", {"dropout": {"p": 1.0}}, NETWORK[1]]
    weights = {name.replace("1.", "2."): tensor for name, tensor in WEIGHTS.items()}

    model = load(write_lamp(tmp_path / "lamp", network=layers, weights=weights))

    assert np.allclose(model.run(bright()), lamp_logits(bright()))
    assert not model.predict(torch.ones(1, 1, 2, 2)).requires_grad


def test_a_warm_up_passes_where_the_network_keeps_its_promise(tmp_path):
    load(write_lamp(tmp_path / "lamp")).warm_up()


@pytest.mark.parametrize("shape", [(8, 1, 2, 2), (3, 1, 3, 5), (2, 1, 8, 6)])
def test_a_network_that_pools_computes_every_shape(tmp_path, shape):
    model = load(write_pooled(tmp_path / "pooled"))

    result = model.run(noise(*shape))

    w = POOLED_WEIGHTS
    features = nn.functional.conv2d(torch.from_numpy(noise(*shape)), w["0.weight"], w["0.bias"], padding=1)
    wanted = features.mean(dim=(2, 3)) @ w["3.weight"].T + w["3.bias"]
    assert np.allclose(result, wanted, atol=1e-5)


def test_a_processor_computes_convolutions_pixel_by_pixel(tmp_path):
    directory = write_pooled(tmp_path / "pooled")
    model = load(directory)
    by_channel = Model.load(read_bundle(directory), directory, CPU, ModelVariant(channels_last=False))

    assert (model.form, by_channel.form) == ("float32-channels-last", "float32")
    assert np.allclose(model.run(noise(3, 1, 8, 6)), by_channel.run(noise(3, 1, 8, 6)), atol=1e-6)


def test_without_convolutions_nothing_lies_otherwise(tmp_path):
    assert load(write_lamp(tmp_path / "lamp")).form == "float32"


def test_a_warm_up_runs_the_smallest_and_the_largest_shape_up_to_a_full_batch(tmp_path):
    model = load(write_pooled(tmp_path / "pooled", batch={"max_items": 6, "max_cost": 100}))

    shapes = [inputs.shape for inputs in model.warm_up_inputs()]

    small = [(items, 1, 2, 2) for items in (1, 2, 4, 6)]
    assert shapes == [*small, (1, 1, 8, 6), (2, 1, 8, 6)]
    model.warm_up()


@pytest.mark.parametrize(
    ("layer", "told"),
    [
        ({"max_pool2d": {"kernel_size": 3}}, r"fails on 1 items of shape \[1, 2, 2\]"),
        ({"max_pool2d": {"kernel_size": [2, 1], "stride": 1}}, r"network gives float32 \(1, 42\)"),
    ],
)
def test_a_network_that_does_not_take_every_shape_is_refused(tmp_path, layer, told):
    directory = write_lamp(tmp_path / "lamp", {}, **{**VARYING, "network": [layer, "flatten"]})

    with pytest.raises(BundleError, match=told):
        load(directory).warm_up()


def test_bfloat16_answers_nearly_the_same_as_float32(tmp_path):
    directory = write_pooled(tmp_path / "pooled")
    exact = load(directory).run(noise(8, 1, 3, 3))

    rounded = load(directory, "bfloat16").run(noise(8, 1, 3, 3))

    assert rounded.dtype == np.float32
    assert np.allclose(rounded, exact, atol=0.02)
    assert not np.array_equal(rounded, exact)


def test_a_processor_does_not_overlap(tmp_path):
    assert not load(write_lamp(tmp_path / "lamp")).overlaps


def test_a_batch_that_needs_more_memory_than_there_is_says_so_and_holds_none(tmp_path):
    margin = {"in_channels": 1, "out_channels": 64, "kernel_size": 1, "padding": 65536}  # 4 TB an item
    weights = {"0.weight": torch.zeros(64, 1, 1, 1), "0.bias": torch.zeros(64)}
    model = load(write_lamp(tmp_path / "lamp", weights, network=[{"conv2d": margin}, "flatten"]))

    with pytest.raises(DeviceOutOfMemory, match="can't allocate memory") as fault:
        model.run(bright())

    assert fault.value.__context__ is None
    with pytest.raises(DeviceOutOfMemory):
        model.warm_up()


class Broken(nn.Module):
    def __init__(self, error):
        super().__init__()
        self.error = error

    def forward(self, batch):
        raise self.error


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), DeviceOutOfMemory),
        (torch.AcceleratorError("CUDA error: out of memory"), DeviceOutOfMemory),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"), DeviceOutOfMemory),
        (MemoryError(), DeviceOutOfMemory),
        (torch.AcceleratorError("CUDA error: an illegal memory access was encountered"), DeviceLost),
        (RuntimeError("CUDA error: unspecified launch failure"), DeviceLost),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), RuntimeError),
        (ValueError("not a fault of the device"), ValueError),
    ],
)
def test_what_torch_says_of_the_device_is_told_apart(tmp_path, error, fault):
    bundle = read_bundle(write_lamp(tmp_path / "lamp"))

    with pytest.raises(fault) as caught:
        Model(bundle, Broken(error), CPU).run(bright())

    assert type(caught.value) is fault


def weights_with(name, tensor):
    return {key: value for key, value in {**WEIGHTS, name: tensor}.items() if value is not None}


@pytest.mark.parametrize(
    ("weights", "told"),
    [
        (weights_with("1.bias", None), "tensor '1.bias' is missing; the network needs float32 [2]"),
        (weights_with("extra", torch.zeros(1)), "tensor 'extra' is not in the network"),
        (weights_with("1.bias", torch.zeros(3)), "tensor '1.bias' is float32 [3], wanted float32 [2]"),
        (weights_with("1.bias", torch.zeros(2).double()), "tensor '1.bias' is float64 [2], wanted float32 [2]"),
        (weights_with("1.bias", torch.tensor([0, np.nan])), "tensor '1.bias' holds values that are not finite"),
    ],
)
def test_weights_that_are_not_the_networks_are_refused(tmp_path, weights, told):
    directory = write_lamp(tmp_path / "lamp", weights=weights)

    with pytest.raises(BundleError) as refusal:
        load(directory)

    assert told in str(refusal.value)
    assert "weights.safetensors" in str(refusal.value)


def test_weights_that_are_no_safetensors_are_refused(tmp_path):
    directory = write_lamp(tmp_path / "lamp")
    (directory / "weights.safetensors").write_text("these are no tensors, but a text")
    write_manifest(directory)

    with pytest.raises(BundleError, match="is not safetensors"):
        load(directory)


def test_a_network_that_announces_more_than_memory_costs_nothing_until_its_weights_are_seen(tmp_path):
    huge = [{"linear": {"in_features": 65536, "out_features": 65536}}] * 100  # 1.7 TB
    directory = write_lamp(tmp_path / "lamp", network=huge)

    with pytest.raises(BundleError, match=r"tensor '0.bias' is missing"):
        load(directory)


@pytest.mark.parametrize(
    ("layers", "weights", "told"),
    [
        (["flatten"], {}, r"outputs\[0\]: network gives float32 \(1, 4\), bundle.yaml says float32 \(1, 2\)"),
        ([{"max_pool2d": {"kernel_size": 9}}], {}, "network: fails on 1 items"),
    ],
)
def test_a_warm_up_refuses_what_does_not_run_or_keep_its_promise(tmp_path, layers, weights, told):
    model = load(write_lamp(tmp_path / "lamp", network=layers, weights=weights))

    with pytest.raises(BundleError, match=told):
        model.warm_up()


def test_a_network_whose_answers_are_not_finite_is_refused_at_warm_up(tmp_path):
    most = torch.finfo(torch.float32).max
    layers = ["flatten", NETWORK[1], {"linear": {"in_features": 2, "out_features": 2}}]
    overflow = {
        "1.weight": torch.zeros(2, 4),
        "1.bias": torch.full((2,), most),
        "2.weight": torch.full((2, 2), most),
        "2.bias": torch.zeros(2),
    }
    model = load(write_lamp(tmp_path / "lamp", network=layers, weights=overflow))

    with pytest.raises(BundleError, match="not finite"):
        model.warm_up()


@pytest.mark.parametrize(
    ("layer", "made"),
    [
        (
            Layer("conv2d", {"in_channels": 1, "out_channels": 2, "kernel_size": [3, 1], "padding": 1, "stride": 2}),
            nn.Conv2d,
        ),
        (Layer("batch_norm2d", {"num_features": 4}), nn.BatchNorm2d),
        (Layer("layer_norm", {"normalized_shape": [4, 4], "eps": 1e-6}), nn.LayerNorm),
        (Layer("adaptive_avg_pool2d", {"output_size": 1}), nn.AdaptiveAvgPool2d),
        (Layer("avg_pool2d", {"kernel_size": 2}), nn.AvgPool2d),
        (Layer("gelu", {"approximate": "tanh"}), nn.GELU),
        (Layer("silu", {}), nn.SiLU),
    ],
)
def test_a_layer_of_the_list_becomes_torchs_layer(layer, made):
    [module] = network.build([layer], "bundle.yaml")

    assert isinstance(module, made)


@pytest.mark.parametrize(
    ("layer", "told"),
    [
        (Layer("lambda", {}), "network[0]: 'lambda' does not do, wanted one of adaptive_avg_pool2d"),
        (Layer("Linear", {}), "network[0]: 'Linear' does not do"),
        (Layer("__import__", {}), "network[0]: '__import__' does not do"),
        (Layer("linear", {"in_features": 4}), "option 'out_features' is missing"),
        (Layer("relu", {"inplace": True}), "relu: unknown option 'inplace'; known are none"),
        (Layer("linear", {"in_features": 4, "out_features": 2, "device": "cuda"}), "unknown option 'device'"),
        (Layer("linear", {"in_features": "4", "out_features": 2}), "linear.in_features: '4' does not do"),
        (Layer("linear", {"in_features": True, "out_features": 2}), "linear.in_features: True does not do"),
        (Layer("linear", {"in_features": 65537, "out_features": 2}), "a whole number from 1 to 65536"),
        (Layer("max_pool2d", {"kernel_size": [2, 2, 2]}), "max_pool2d.kernel_size: [2, 2, 2] does not do"),
        (Layer("max_pool2d", {"kernel_size": 0}), "max_pool2d.kernel_size: 0 does not do"),
        (Layer("dropout", {"p": 1.5}), "dropout.p: 1.5 does not do, wanted a number from 0 to 1"),
        (Layer("layer_norm", {"normalized_shape": 4}), "layer_norm.normalized_shape: 4 does not do"),
        (
            Layer("conv2d", {"in_channels": 3, "out_channels": 4, "kernel_size": 1, "groups": 2}),
            "conv2d: the options do not fit together",
        ),
    ],
)
def test_a_layer_that_is_not_allowed_is_refused(layer, told):
    with pytest.raises(BundleError) as refusal:
        network.build([layer], "bundle.yaml")

    assert told in str(refusal.value)


def test_a_mel_spectrogram_is_loudest_at_the_pitch_of_the_tone():
    rate_hz, mels = 16_000, 40
    layer = network.build(
        [Layer("mel_spectrogram", {"sample_rate": rate_hz, "n_fft": 512, "hop_length": 160, "n_mels": mels})], "test"
    )
    tone = torch.sin(2 * torch.pi * 1_000 * torch.arange(rate_hz) / rate_hz)

    loud = layer(torch.stack([tone, torch.zeros(rate_hz)])[:, None])

    assert loud.shape == (2, 1, mels, 101)
    highest_mel = 2595 * math.log10(1 + rate_hz / 2 / 700)
    expected = 2595 * math.log10(1 + 1_000 / 700) / highest_mel * (mels + 1) - 1
    assert float(loud[0, 0].mean(dim=1).argmax()) == pytest.approx(expected, abs=1)
    assert loud[1].unique().numel() == 1


ENCODER = {"d_model": 8, "nhead": 2, "dim_feedforward": 16, "norm_first": True, "activation": "gelu"}


def test_tokens_pass_a_transformer_and_become_one_vector():
    torch.manual_seed(0)
    layers = [
        Layer("embedding", {"num_embeddings": 5, "embedding_dim": 8}),
        Layer("positional_embedding", {"num_positions": 6, "embedding_dim": 8}),
        Layer("transformer_encoder_layer", ENCODER),
        Layer("mean", {"dim": 1}),
    ]
    module = network.build(layers, "bundle.yaml").eval().requires_grad_(False)
    ids = torch.tensor([[1, 2, 3, 4], [4, 4, 0, 1]])

    found = module(ids)

    embedding, places, encoder, _ = module
    torchs = nn.TransformerEncoderLayer(8, 2, 16, activation="gelu", norm_first=True, batch_first=True).eval()
    torchs.load_state_dict(encoder.state_dict())
    assert torch.allclose(found, torchs(embedding.weight[ids] + places.weight[:4]).mean(1), atol=1e-6)
    assert not torch.allclose(found, module(ids.flip(1)), atol=1e-3)


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(BundleError, match="do not fit together"):
        network.build([Layer("transformer_encoder_layer", ENCODER | {"nhead": 3})], "bundle.yaml")


def test_a_text_longer_than_there_are_positions_is_refused_at_warm_up(tmp_path):
    layers = [*text_tools.NETWORK]
    layers.insert(1, {"positional_embedding": {"num_positions": text_tools.MOST - 1, "embedding_dim": 2}})
    weights = {name.replace("2.", "3."): tensor for name, tensor in text_tools.WEIGHTS.items()}
    weights["1.weight"] = torch.zeros(text_tools.MOST - 1, 2)
    model = load(write_bundle(tmp_path / "moods", weights, text_tools.moods(network=layers)))

    with pytest.raises(BundleError, match=r"network: fails on 1 items of shape \[12\]"):
        model.warm_up()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "is no tokenizer"),
        (b"{}", "is no tokenizer"),
        (text_tools.TOKENIZER[:-1], "is no tokenizer"),
        (b"\xff", "is no tokenizer"),
        (text_tools.tokenizer(*text_tools.WORDS, "more"), "has ids up to 7, the network's embedding 7"),
    ],
)
def test_a_tokenizer_that_does_not_go_with_the_network_is_refused(tmp_path, content, told):
    directory = write_bundle(tmp_path / "moods", text_tools.WEIGHTS, text_tools.moods())
    (directory / "tokenizer.json").write_bytes(content)
    write_manifest(directory)

    with pytest.raises(BundleError, match=r"inputs\[0\].text.tokenizer: tokenizer.json ") as refused:
        load(directory)

    assert told in str(refused.value)


def test_damaged_tokenizers_are_taken_or_refused(tmp_path):
    """Nothing but a BundleError, whatever the library makes of them."""
    chance, refused = Random("tokenizers"), 0
    bundle = read_bundle(write_bundle(tmp_path / "moods", text_tools.WEIGHTS, text_tools.moods()))

    for _ in range(1_000):
        try:
            check_tokenizer(replace(bundle, tokenizer=damaged(bundle.tokenizer, chance)), 7, "bundle.yaml")
        except BundleError:
            refused += 1

    assert 500 < refused < 1_000
