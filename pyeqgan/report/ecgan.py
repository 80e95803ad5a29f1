"""What the page tells of an ECGAN alone."""

from __future__ import annotations

from pyeqgan.options import ECGANOptions
from pyeqgan.trained.ecgan import averaged_generator
from pyeqgan.training.checkpoint import Checkpoint


def summary(config: ECGANOptions, checkpoint: Checkpoint) -> str:
    """The data, their size, the batch, and the generator that learns from them."""
    parameters = sum(parameter.numel() for parameter in averaged_generator(checkpoint).parameters())
    return (
        f"{checkpoint.about['images'][0]} layouts of {len(checkpoint.about['classes'])} classes of {config.data}, at "
        f"{config.image_width}×{config.image_height}, {config.batch_size} a step, a generator of "
        f"{parameters / 1e6:.2f} million parameters"
    )
