"""The contracts of the operations, one file each: schema, checks, fake, derivatives, docstring.

To import any of them is to define all: :mod:`pyeqgan.backends` tells of every operation there is.
"""

from pyeqgan.ops import (
    activated_conv2d,
    bilateral_propagation,
    contrastive_loss,
    equalization_consistency_loss,
    equalization_fusion,
    layout_conv2d,
    lifted_fusion,
    local_fusion,
    modulated_norm,
    multiscale_contrastive_loss,
    similarity_loss,
    skip_decoder_block,
)

__all__ = [
    "activated_conv2d",
    "bilateral_propagation",
    "contrastive_loss",
    "equalization_consistency_loss",
    "equalization_fusion",
    "layout_conv2d",
    "lifted_fusion",
    "local_fusion",
    "modulated_norm",
    "multiscale_contrastive_loss",
    "similarity_loss",
    "skip_decoder_block",
]
