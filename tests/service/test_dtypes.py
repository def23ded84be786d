"""Every datatype of a tensor, held to what torch makes of it."""

import numpy as np
import pytest
import torch
from bedplate.bundle import dtypes

BFLOAT16_BITS = np.arange(1 << 16, dtype="<u2")  # every one that there is


@pytest.mark.parametrize("name", dtypes.HOLDERS)
def test_an_element_takes_as_many_bytes_as_torchs(name):
    assert dtypes.HOLDERS[name].itemsize == torch.empty(0, dtype=getattr(torch, name)).itemsize
    assert dtypes.HOLDERS[name].newbyteorder("<") == dtypes.HOLDERS[name]


def test_bfloat16_becomes_the_number_that_torch_says():
    wanted = torch.from_numpy(BFLOAT16_BITS).view(torch.bfloat16).float().numpy()

    assert np.array_equal(dtypes.to_numbers("bfloat16", BFLOAT16_BITS), wanted, equal_nan=True)


def test_a_number_is_rounded_to_bfloat16_as_torch_rounds():
    noise = np.random.default_rng(seed=0).integers(0, 1 << 32, 100_000, dtype=np.uint64).astype("<u4").view("<f4")
    # Beside each bfloat16: half way to the next, and one bit to either side of that.
    ties = (
        ((BFLOAT16_BITS.astype("<u4") << 16)[:, None] + np.array([0x7FFF, 0x8000, 0x8001], "<u4")).view("<f4").ravel()
    )
    values = np.concatenate([noise, ties])
    values = values[~np.isnan(values)]

    rounded = dtypes.from_numbers("bfloat16", values)

    assert np.array_equal(rounded, torch.from_numpy(values).bfloat16().view(torch.uint16).numpy())


def test_what_is_not_a_number_stays_none_in_bfloat16():
    every = np.array([0x7F800001, 0x7FC00000, 0x7FFFFFFF, 0xFF800001, 0xFFFFFFFF], "<u4").view("<f4")

    assert np.isnan(dtypes.to_numbers("bfloat16", dtypes.from_numbers("bfloat16", every))).all()


def test_what_is_not_finite_is_found_in_every_floating_dtype():
    for name in dtypes.FLOATING:
        held = dtypes.from_numbers(name, np.array([1, np.inf, -np.inf, np.nan, 1e300, -2]))
        assert dtypes.finite(name, held).tolist() == [True, False, False, False, name == "float64", True]
    # The same bits as whole numbers are numbers.
    assert dtypes.finite("uint16", BFLOAT16_BITS).all()


def test_a_byte_of_a_bool_is_true_or_false():
    read = dtypes.from_bytes("bool", bytes([0, 1, 2, 255]))

    assert read.view(np.uint8).tolist() == [0, 1, 1, 1]
