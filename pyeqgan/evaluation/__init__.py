"""Evaluation on unseen classes: how far generated images are from real ones, and from copying the references."""

from pyeqgan.evaluation.bootstrap import Estimate
from pyeqgan.evaluation.classify import FeatureConfig, Progress
from pyeqgan.evaluation.diversity import effective_number, mean_pairwise_distance, nearest_reference_distance
from pyeqgan.evaluation.frechet import frechet_distance
from pyeqgan.evaluation.generators import Generate
from pyeqgan.evaluation.page import write_page
from pyeqgan.evaluation.protocol import evaluate_generator
from pyeqgan.evaluation.result import EvaluationResult, Scores

__all__ = [
    "Estimate",
    "EvaluationResult",
    "FeatureConfig",
    "Generate",
    "Progress",
    "Scores",
    "effective_number",
    "evaluate_generator",
    "frechet_distance",
    "mean_pairwise_distance",
    "nearest_reference_distance",
    "write_page",
]
