"""Evaluation of images of given layouts: whether the layout, and the edges, are found in them again."""

from pyeqgan.evaluation.layouts.agreement import class_counts, class_iou, mean_iou, pixel_accuracy
from pyeqgan.evaluation.layouts.contours import edge_counts, edge_f1, edge_precision, edge_recall
from pyeqgan.evaluation.layouts.evaluate import evaluate_layouts
from pyeqgan.evaluation.layouts.painter import Paint, mean_colours, paint_means
from pyeqgan.evaluation.layouts.protocol import LayoutProtocol
from pyeqgan.evaluation.layouts.reading import read_layout_evaluation
from pyeqgan.evaluation.layouts.report import sections, write_page
from pyeqgan.evaluation.layouts.result import LayoutEvaluation
from pyeqgan.evaluation.layouts.segmenter import Segmenter
from pyeqgan.evaluation.layouts.training import SegmenterConfig, train_segmenter

__all__ = [
    "LayoutEvaluation",
    "LayoutProtocol",
    "Paint",
    "Segmenter",
    "SegmenterConfig",
    "class_counts",
    "class_iou",
    "edge_counts",
    "edge_f1",
    "edge_precision",
    "edge_recall",
    "evaluate_layouts",
    "mean_colours",
    "mean_iou",
    "paint_means",
    "pixel_accuracy",
    "read_layout_evaluation",
    "sections",
    "train_segmenter",
    "write_page",
]
