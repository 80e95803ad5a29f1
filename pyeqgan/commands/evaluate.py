"""`pyeqgan evaluate`."""

from __future__ import annotations

from pyeqgan.commands.command import Command
from pyeqgan.options import EvaluateOptions

HELP = """Evaluate a trained generator on unseen classes, beside two trivial generators.

examples:
  pyeqgan evaluate --checkpoint runs/photos --output runs/photos/evaluation
  pyeqgan evaluate --checkpoint runs/photos --data others --output others-evaluated
  pyeqgan evaluate --checkpoint runs/photos --output gain --downstream --repeats 5
  pyeqgan evaluate --checkpoint runs/flowers --output fid --features inception \\
      --lpips vgg --weights weights --compat lofgan

notes:
  The trivial ones copy a reference and take the pixel mean of references. All
  are compared with real images in the features of a network trained on the seen
  classes of the same data, which are not comparable with published FID.
  --features inception and --lpips need pip install 'pyeqgan[metrics]' and
  published weights, which are never downloaded, but looked for in --weights, in
  the folder PYEQGAN_WEIGHTS and in torch.hub's cache, and checked:
    inception   pt_inception-2015-12-05-6726825d.pth, of pytorch-fid, also as
                weights-inception-2015-12-05-6726825d.pth, of torch-fidelity
    lpips vgg   vgg16-397923af.pth, of torchvision
    lpips alex  alexnet-owt-7be5be79.pth, of torchvision
  --compat shuffles, draws, reduces and normalises images as the published
  script does; pyeqgan/evaluation/variants.py lists what, and what not."""


def run(options: EvaluateOptions) -> int:
    """Write numbers and pictures; returns 0."""
    from rich.console import Console

    from pyeqgan.trained import evaluate
    from pyeqgan.training.progress import stages

    with stages(Console()) as progress:
        evaluate(options, print, progress)
    return 0


COMMAND = Command(EvaluateOptions, HELP, run)
