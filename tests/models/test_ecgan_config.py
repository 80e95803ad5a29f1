import dataclasses
import json

import pytest

from pyeqgan.models import ECGANConfig

VALID = {"num_classes": 5, "image_height": 64, "image_width": 96}


def test_a_dict_of_plain_values_brings_the_configuration_back():
    config = ECGANConfig(**VALID, width=0.5, upsamplings=4, instance_edges=True, modules="edge", norm="instance")
    assert ECGANConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_it_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        ECGANConfig(3).width = 2.0


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"num_classes": 0}, ValueError, "num_classes: expected an integer >= 1, got 0"),
        ({"upsamplings": 2}, ValueError, "upsamplings: expected 3 to 7, got 2"),
        ({"upsamplings": 8}, ValueError, "upsamplings: expected 3 to 7, got 8"),
        ({"upsamplings": 4.0}, TypeError, "upsamplings: expected an integer, got 4.0"),
        ({"image_height": 48}, ValueError, r"image_height: expected a multiple of 2\^upsamplings = 32, got 48"),
        ({"image_width": 80}, ValueError, r"image_width: expected a multiple of 2\^upsamplings = 32, got 80"),
        ({"image_width": True}, TypeError, "image_width: expected an integer, got True"),
        ({"width": float("inf")}, ValueError, "width: expected a finite number > 0, got inf"),
        ({"instance_edges": 1}, TypeError, "instance_edges: expected True or False, got 1"),
        ({"modules": "all"}, ValueError, "modules: expected 'image' or 'edge' or 'transfer' or 'semantic', got 'all'"),
        ({"norm": None}, ValueError, "norm: expected 'batch' or 'instance', got None"),
    ],
)
def test_a_wrong_field_is_named(fields, error, message):
    with pytest.raises(error, match=f"^ECGANConfig: {message}$"):
        ECGANConfig(**{**VALID, **fields})


def test_unknown_and_missing_keys_are_named():
    with pytest.raises(ValueError, match=r"ECGANConfig: expected keys among num_classes, .*, got shots"):
        ECGANConfig.from_dict({"num_classes": 3, "shots": 2})
    with pytest.raises(ValueError, match="ECGANConfig: expected the key num_classes, got none"):
        ECGANConfig.from_dict({"width": 1.0})


def test_the_trunk_is_as_wide_as_published_and_scales():
    full, quarter = ECGANConfig(3), ECGANConfig(3, width=0.25)
    assert [full.trunk_channels(level) for level in range(7)] == [64, 128, 256, 512, 1024, 1024, 1024]
    assert [quarter.trunk_channels(level) for level in range(7)] == [16, 32, 64, 128, 256, 256, 256]


def test_modules_come_one_after_another():
    config = ECGANConfig(3, modules="transfer")
    assert [config.contains(m) for m in ("image", "edge", "transfer", "semantic")] == [True, True, True, False]
