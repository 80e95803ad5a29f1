"""Pairs of images and label maps: sources (the embedded landscapes, folders of pairs), their split, and batches."""

from pyeqgan.data.layouts.edges import THRESHOLDS, EdgeMaps, Thresholds, canny, instance_edges
from pyeqgan.data.layouts.embedded import EmbeddedLayouts
from pyeqgan.data.layouts.files import LayoutFiles, read_instances, read_labels
from pyeqgan.data.layouts.images import IGNORED, Coding, Instances, Labels, LayoutImages, LayoutSplit, View
from pyeqgan.data.layouts.palette import coloured
from pyeqgan.data.layouts.sampler import LayoutBatch, LayoutSampler, prefetch_layouts
from pyeqgan.data.layouts.source import EMBEDDED, open_layouts

__all__ = [
    "EMBEDDED",
    "IGNORED",
    "THRESHOLDS",
    "Coding",
    "EdgeMaps",
    "EmbeddedLayouts",
    "Instances",
    "Labels",
    "LayoutBatch",
    "LayoutFiles",
    "LayoutImages",
    "LayoutSampler",
    "LayoutSplit",
    "Thresholds",
    "View",
    "canny",
    "coloured",
    "instance_edges",
    "open_layouts",
    "prefetch_layouts",
    "read_instances",
    "read_labels",
]
