"""The operations of the library as functions: each checks its arguments and calls the fastest kernel there is.

Every function has an oracle of the same signature in :mod:`pyeqgan.reference`. Which implementation runs, and why,
is told by :func:`pyeqgan.backends.explain`.
"""

from pyeqgan.backends import load_native
from pyeqgan.ops.activated_conv2d import activated_conv2d
from pyeqgan.ops.bilateral_propagation import bilateral_propagation
from pyeqgan.ops.contrastive_loss import contrastive_loss
from pyeqgan.ops.equalization_consistency_loss import equalization_consistency_loss
from pyeqgan.ops.equalization_fusion import equalization_fusion
from pyeqgan.ops.layout_conv2d import layout_conv2d
from pyeqgan.ops.lifted_fusion import lifted_fusion
from pyeqgan.ops.local_fusion import local_fusion
from pyeqgan.ops.modulated_norm import modulated_norm
from pyeqgan.ops.multiscale_contrastive_loss import multiscale_contrastive_loss
from pyeqgan.ops.similarity_loss import similarity_loss
from pyeqgan.ops.skip_decoder_block import skip_decoder_block

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

load_native()
