"""Labelled images: sources (folders, archives, the embedded flowers), their split, and K-shot episodes.

`layouts` has pairs of images and label maps: sources (folders, the embedded landscapes), their split, and batches.
"""

from pyeqgan.data.archives import ArchiveClasses
from pyeqgan.data.built import BuiltClasses
from pyeqgan.data.classes import ClassSubset, ImageClasses, Split, open_data
from pyeqgan.data.episodes import Episode, EpisodeSampler, prefetch, to_tensor, to_uint8
from pyeqgan.data.folders import FolderClasses
from pyeqgan.data.layouts import (
    EmbeddedLayouts,
    LayoutBatch,
    LayoutImages,
    LayoutSampler,
    LayoutSplit,
    View,
    canny,
    open_layouts,
    prefetch_layouts,
)
from pyeqgan.data.synthetic import SyntheticFlowers
from pyeqgan.data.unreadable import Unreadable

__all__ = [
    "ArchiveClasses",
    "BuiltClasses",
    "ClassSubset",
    "EmbeddedLayouts",
    "Episode",
    "EpisodeSampler",
    "FolderClasses",
    "ImageClasses",
    "LayoutBatch",
    "LayoutImages",
    "LayoutSampler",
    "LayoutSplit",
    "Split",
    "SyntheticFlowers",
    "Unreadable",
    "View",
    "canny",
    "open_data",
    "open_layouts",
    "prefetch",
    "prefetch_layouts",
    "to_tensor",
    "to_uint8",
]
