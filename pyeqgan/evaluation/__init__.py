"""Evaluation on unseen classes: how far generated images are from real ones, and from copying the references."""

from pyeqgan.evaluation.bootstrap import Estimate
from pyeqgan.evaluation.classify import FeatureConfig
from pyeqgan.evaluation.diversity import effective_number, mean_pairwise_distance, nearest_reference_distance
from pyeqgan.evaluation.downstream import DownstreamConfig, classify_downstream
from pyeqgan.evaluation.evaluate import evaluate_generator
from pyeqgan.evaluation.frechet import frechet_distance
from pyeqgan.evaluation.generators import Generate
from pyeqgan.evaluation.inception import InceptionFeatures
from pyeqgan.evaluation.kernel import kernel_distance, kernel_distance_of_subsets
from pyeqgan.evaluation.lpips import LPIPS, mean_lpips
from pyeqgan.evaluation.manifold import precision_recall
from pyeqgan.evaluation.page import sections, write_page
from pyeqgan.evaluation.protocol import Protocol
from pyeqgan.evaluation.reading import read_result
from pyeqgan.evaluation.result import Downstream, EvaluationResult, Scores
from pyeqgan.telling import Progress

__all__ = [
    "LPIPS",
    "Downstream",
    "DownstreamConfig",
    "Estimate",
    "EvaluationResult",
    "FeatureConfig",
    "Generate",
    "InceptionFeatures",
    "Progress",
    "Protocol",
    "Scores",
    "classify_downstream",
    "effective_number",
    "evaluate_generator",
    "frechet_distance",
    "kernel_distance",
    "kernel_distance_of_subsets",
    "mean_lpips",
    "mean_pairwise_distance",
    "nearest_reference_distance",
    "precision_recall",
    "read_result",
    "sections",
    "write_page",
]
