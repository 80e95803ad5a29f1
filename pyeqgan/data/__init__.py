"""Labelled images: sources (folders, archives, the embedded flowers), their split, and K-shot episodes."""

from pyeqgan.data.archives import ArchiveClasses
from pyeqgan.data.built import BuiltClasses
from pyeqgan.data.classes import ClassSubset, ImageClasses, Split, open_data
from pyeqgan.data.episodes import Episode, EpisodeSampler, prefetch, to_tensor, to_uint8
from pyeqgan.data.folders import FolderClasses
from pyeqgan.data.synthetic import SyntheticFlowers

__all__ = [
    "ArchiveClasses",
    "BuiltClasses",
    "ClassSubset",
    "Episode",
    "EpisodeSampler",
    "FolderClasses",
    "ImageClasses",
    "Split",
    "SyntheticFlowers",
    "open_data",
    "prefetch",
    "to_tensor",
    "to_uint8",
]
