import dataclasses
import json

import pytest

from pyeqgan.models import EqGANConfig


def test_a_dict_of_plain_values_brings_the_configuration_back():
    config = EqGANConfig(7, image_size=48, shots=2, width=0.5, fusion="mean", detail="base")
    assert EqGANConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_it_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        EqGANConfig(3).width = 2.0


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"image_size": 40}, ValueError, "image_size: expected a multiple of 16 from 32 to 256, got 40"),
        ({"image_size": 16}, ValueError, "image_size: expected a multiple of 16"),
        ({"image_size": 272}, ValueError, "image_size: expected a multiple of 16"),
        ({"image_size": 64.0}, TypeError, "image_size: expected an integer, got 64.0"),
        ({"num_classes": 0}, ValueError, "num_classes: expected an integer >= 1, got 0"),
        ({"shots": 0}, ValueError, "shots: expected an integer >= 1, got 0"),
        ({"shots": True}, TypeError, "shots: expected an integer, got True"),
        ({"width": 0.0}, ValueError, "width: expected a finite number > 0, got 0.0"),
        ({"width": float("nan")}, ValueError, "width: expected a finite number > 0, got nan"),
        ({"width": "wide"}, TypeError, "width: expected a number, got 'wide'"),
        ({"fusion_rate": 1.5}, ValueError, r"fusion_rate: expected a number in \(0, 1\], got 1.5"),
        ({"fusion_rate": 0}, ValueError, "fusion_rate: expected a finite number > 0, got 0"),
        ({"fusion": "max"}, ValueError, "fusion: expected 'local' or 'mean', got 'max'"),
        ({"equalization": "off"}, ValueError, "equalization: expected 'scales' or 'shared', got 'off'"),
        ({"detail": None}, ValueError, "detail: expected 'fused' or 'base' or 'none', got None"),
    ],
)
def test_a_wrong_field_is_named(fields, error, message):
    with pytest.raises(error, match=message) as caught:
        EqGANConfig(**{"num_classes": 3, **fields})
    assert "\n" not in str(caught.value)


def test_unknown_and_missing_keys_are_named():
    with pytest.raises(ValueError, match=r"expected keys among num_classes, .*, got depth, size"):
        EqGANConfig.from_dict({"num_classes": 3, "size": 64, "depth": 2})
    with pytest.raises(ValueError, match="expected the key num_classes, got none"):
        EqGANConfig.from_dict({"image_size": 64})


@pytest.mark.parametrize(("width", "channels"), [(1.0, 64), (0.25, 16), (0.01, 8), (0.3, 16), (1.5, 96)])
def test_width_scales_channels_by_multiples_of_eight(width, channels):
    assert EqGANConfig(3, width=width).channels(64) == channels
