"""`pyeqgan data build`."""

from __future__ import annotations

from pyeqgan.commands.command import Command
from pyeqgan.options.data_build import DataBuildOptions

HELP = """Make one array of images, with classes, split and checksums, from folders and archives.

examples:
  pyeqgan data build photos --output photos-128
  pyeqgan data build photos.zip --output photos-64 --image-size 64 --seen-classes 85
  pyeqgan data build images_background_small1.zip --output omniglot \\
      --unseen images_background_small2.zip --image-size 32
  pyeqgan data build 102flowers.tgz --labels imagelabels.mat --output flowers \\
      --seen-classes flowers --format lofgan
  pyeqgan data build ILSVRC/train --boxes animal_face_coordinates.txt --output animals \\
      --seen-classes animals --images-per-class 100
  pyeqgan data build vggface --min-images 100 --images-per-class 100 \\
      --output faces --image-size 64 --seen-classes vggface

notes:
  Every folder that holds images is a class, named by its path below the folder
  that all share. A source is read where it is and never changed.
  Interrupted or killed, the same command goes on; what is unfinished lies in
  .NAME.building beside --output, which appears when it is complete.
  The folder holds images.npy, which NumPy maps; pyeqgan.json: classes, split and
  checksums; sources.jsonl: the file and checksum of each image. train and
  evaluate take it as --data, with its split as the default.
  Animal Faces are crops of ImageNet: its training images as class folders and
  FUNIT's list are needed. VGGFace was published as links, most of them dead:
  what there is of it are folders of persons, or LoFGAN's .npy, which train reads
  as it is. That the papers' first 85 and 1802 classes are the first by name is
  our assumption."""


def run(options: DataBuildOptions) -> int:
    """Build; returns 0."""
    from rich.console import Console

    from pyeqgan.data.building import build
    from pyeqgan.training.progress import stages

    with stages(Console()) as progress:
        build(options, print, progress)
    return 0


COMMAND = Command(DataBuildOptions, HELP, run)
