"""The web page, by Gradio, and its server."""

from __future__ import annotations

import os
import signal
import socket
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from pyeqgan.app.making import LARGEST_SEED, MOST_IMAGES, make_images, zipped
from pyeqgan.app.reading import MOST_BYTES, read_upload
from pyeqgan.data.images import Pixels
from pyeqgan.errors import UserError
from pyeqgan.models import EqGANGenerator
from pyeqgan.options import AppOptions
from pyeqgan.telling import Report
from pyeqgan.trained.eqgan import averaged_generator
from pyeqgan.training.checkpoint import load_latest
from pyeqgan.training.device import resolve_device

if TYPE_CHECKING:
    import gradio

SHOWN = 256  # pixels: smaller images are shown enlarged; the archive has them as they are


def serve(options: AppOptions, report: Report) -> int:
    """Serve the page until the process is interrupted; returns 0.

    Args:
        options: of the command.
        report: called with the page's address, once it can be opened.

    Raises:
        UserError: Gradio is not installed, the checkpoint cannot be read, or the address not be listened on.
    """
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # read when it is imported
    try:
        import gradio
    except ImportError as error:
        raise UserError("the app needs Gradio: pip install 'pyeqgan[app]'") from error
    device = resolve_device(options.device)
    generator = averaged_generator(load_latest(options.checkpoint, report, ["ema"])).to(device)
    port = _free_port(options.host, options.port)
    with tempfile.TemporaryDirectory(prefix="pyeqgan-app-") as folder:
        # What is uploaded and generated lives there, and goes with the process.
        os.environ["GRADIO_TEMP_DIR"] = folder
        page = build_page(generator, Path(folder))
        page.queue(max_size=32).launch(
            server_name=options.host,
            server_port=port,
            max_file_size=MOST_BYTES,
            share=False,
            quiet=True,
            prevent_thread_lock=True,
            theme=gradio.themes.Default(  # whose own fonts come from elsewhere
                font=["system-ui", "sans-serif"], font_mono=["monospace"], primary_hue="pink"
            ),
            footer_links=[],
        )
        stop = _stopped_by_a_signal()
        report(f"open http://{options.host}:{port} in a browser; Ctrl-C ends it")
        stop.wait()
        page.close(verbose=False)
    return 0


def _stopped_by_a_signal() -> threading.Event:
    """An event that SIGINT and SIGTERM set."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    return stop


def build_page(generator: EqGANGenerator, folder: Path) -> gradio.Blocks:
    """The page for a generator: as many places for images as it was trained to fuse, and what comes of them.

    Args:
        generator: in eval mode, on the device to compute on.
        folder: for the archives to download.
    """
    import gradio as gr

    shots = generator.config.shots
    page: gradio.Blocks = gr.Blocks(title="pyeqgan", analytics_enabled=False, delete_cache=(600, 3600))
    with page:
        gr.Markdown(
            f"# New images of a class from {shots} of it\nDrop up to {shots} images that show the same class, one to a "
            "place. Each image's share says how much of it the new ones have; 0 leaves it out."
        )
        with gr.Row():
            columns = [_place(gr, index, generator.config.image_size) for index in range(shots)]
        places, shares = zip(*columns, strict=True)
        with gr.Row():
            count = gr.Slider(1, MOST_IMAGES, 12, step=1, label="How many")
            seed = gr.Number(0, label="Seed", precision=0, minimum=0, maximum=LARGEST_SEED)
        button = gr.Button("Generate", variant="primary")
        gallery = gr.Gallery(
            label="New images", columns=6, object_fit="contain", format="png", interactive=False, buttons=[]
        )
        download = gr.DownloadButton("Download all", interactive=False)

        def generate(count: float, seed: float, *inputs: Any) -> tuple[list[Image.Image], Any]:
            paths = [Path(path) if path else None for path in inputs[:shots]]
            try:
                images = make_images(generator, paths, inputs[shots:], int(count), int(seed))
            except UserError as error:
                raise gr.Error(str(error), print_exception=False) from error
            archive = Path(tempfile.mkdtemp(dir=folder)) / "generated.zip"
            archive.write_bytes(zipped(images))
            return [_shown(pixels) for pixels in images], gr.DownloadButton(value=str(archive), interactive=True)

        button.click(generate, [count, seed, *places, *shares], [gallery, download], api_name="generate")
    return page


def _place(gr: Any, index: int, image_size: int) -> tuple[Any, Any]:
    """Where an image is dropped, what the generator will see of it, and the slider of its share."""
    with gr.Column(min_width=160):
        place = gr.File(label=f"Image {index + 1}", file_types=["image"], type="filepath", height=140)
        preview = gr.Image(label="its central square", interactive=False, visible=False, height=180, buttons=[])
        share = gr.Slider(0, 1, 1, step=0.05, label="Share")

    def show(path: str | None) -> Any:
        if path is None:
            return gr.Image(visible=False)
        try:
            return gr.Image(value=_shown(read_upload(Path(path), image_size)), visible=True)
        except UserError as error:
            raise gr.Error(str(error), print_exception=False) from error

    place.change(show, place, preview, api_name=f"preview_{index + 1}")
    return place, share


def _shown(pixels: Pixels) -> Image.Image:
    factor = max(1, SHOWN // len(pixels))
    return Image.fromarray(pixels).resize((len(pixels) * factor,) * 2, Image.Resampling.BICUBIC)


def _free_port(host: str, port: int) -> int:
    """`port` if it can be listened on, or any free one for 0; UserError otherwise."""
    try:
        with socket.create_server((host, port)) as probe:
            return int(probe.getsockname()[1])
    except (OSError, OverflowError) as error:
        why = str(error.args[-1]).partition(" (while")[0]  # attempting to bind, which the rest of the line says
        raise UserError(f"cannot listen on {host}:{port}: {why}; --port takes another, 0 any free one") from error
