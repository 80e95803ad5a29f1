"""The oracle: every operation of the library in plain, differentiable PyTorch.

Same names, arguments and results as :mod:`pyeqgan.functional`, any floating dtype, gradients of any order,
no regard for speed or memory. It defines what a kernel must compute; it checks no arguments (the contract in
:mod:`pyeqgan.ops` does). Statistics, softmax, log-sum-exp and accumulation run in float32 for half-precision
input and in the input's own precision otherwise; image outputs are cast back to the input's dtype and keep its
memory format, losses stay in the accumulation dtype.
"""

from pyeqgan.reference.arithmetic import (
    accumulation_dtype,
    activate,
    normalize,
    update_running_statistics,
)
from pyeqgan.reference.contrast import (
    contrastive_loss,
    contrastive_rows,
    multiscale_contrastive_loss,
    pixels_of_scale,
)
from pyeqgan.reference.convolution import (
    PADDING_MODES,
    activated_conv2d,
    skip_decoder_block,
    skip_decoder_block_with_statistics,
)
from pyeqgan.reference.equalization import (
    bilateral_propagation,
    bilateral_propagation_with_affinity,
    equalization_consistency_loss,
    equalization_fusion,
    neighbours,
    spatial_matrix,
    spatial_radius,
)
from pyeqgan.reference.fusion import (
    lifted_fusion,
    local_fusion,
)
from pyeqgan.reference.layout import layout_conv2d, one_hot
from pyeqgan.reference.modulation import (
    modulated_norm,
    modulated_norm_with_statistics,
)
from pyeqgan.reference.similarity import similarity_loss, similarity_of_rows

__all__ = [
    "PADDING_MODES",
    "accumulation_dtype",
    "activate",
    "activated_conv2d",
    "bilateral_propagation",
    "bilateral_propagation_with_affinity",
    "contrastive_loss",
    "contrastive_rows",
    "equalization_consistency_loss",
    "equalization_fusion",
    "layout_conv2d",
    "lifted_fusion",
    "local_fusion",
    "modulated_norm",
    "modulated_norm_with_statistics",
    "multiscale_contrastive_loss",
    "neighbours",
    "normalize",
    "one_hot",
    "pixels_of_scale",
    "similarity_loss",
    "similarity_of_rows",
    "skip_decoder_block",
    "skip_decoder_block_with_statistics",
    "spatial_matrix",
    "spatial_radius",
    "update_running_statistics",
]
