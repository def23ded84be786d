"""Networks come as data from an allow-list, and weights must be exactly theirs."""

import numpy as np
import pytest
import torch
from bedplate.bundle import BundleError, Layer, read_bundle
from bedplate.engine import network
from bedplate.engine.model import Model
from torch import nn

from tests.service.engine_tools import NETWORK, WEIGHTS, bright, write_lamp
from tests.service.lamp import lamp_logits

CPU = torch.device("cpu")


def load(directory):
    return Model.load(read_bundle(directory), directory, CPU)


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
    bundle = read_bundle(directory)
    torch.save(WEIGHTS, directory / "weights.safetensors")

    with pytest.raises(BundleError, match="is not safetensors"):
        Model.load(bundle, directory, CPU)


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
