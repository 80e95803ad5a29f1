"""Training steps as CUDA graphs, where they run. Not yet run on a GPU; on the CPU see training/test_graphs.py."""

from __future__ import annotations

import pytest
import torch

NEEDED = ("lightning_fabric", "rich", "safetensors", "tyro", "yaml", "PIL")
CASES = [
    {"penalty_every": 2, "mode_seeking_weight": 1.0},
    {"penalty": "adversarial", "precision": "bf16-mixed"},
    {"penalty": "none", "memory_format": "channels_last"},
    {"model": "ecgan", "contrast_rows": 40},
    {"model": "ecgan", "contrast_rows": 40, "precision": "bf16-mixed"},
]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("case", CASES, ids=str)
def test_replayed_steps_are_as_close_to_plain_ones_as_plain_ones_to_each_other(tmp_path, case):
    """Some of torch's kernels add in any order: two plain runs tell how much that makes, perhaps nothing."""
    for package in (*NEEDED, *["cv2"] * ("model" in case)):
        pytest.importorskip(package, reason=f"training needs {package}")
    import runs

    from pyeqgan.training.engine import Engine, launch
    from pyeqgan.training.graphs import WARM_UP
    from pyeqgan.training.systems import open_system

    ecgan = case.get("model") == "ecgan"
    make, write = (runs.ecgan_options, runs.write_layouts) if ecgan else (runs.run_options, runs.write_photos)
    data, steps, engines = write(tmp_path / "data"), 4 * WARM_UP, []
    for graph in (False, False, True):
        system = open_system(make(data, tmp_path, steps=steps, device="cuda", cuda_graph=graph, **case))
        engines.append(Engine(system, launch("cuda", system.options.precision)))
    curves, allocated = [], []
    for batch in system.batches(0, steps, slice(0, 2)):
        losses = [engine.advance(batch) for engine in engines]
        assert losses[0].keys() == losses[2].keys()
        curves.append(torch.stack([torch.stack([loss.float() for loss in found.values()]) for found in losses]))
        allocated.append(torch.cuda.memory_allocated())
    plain, again, replayed = torch.cat(curves, 1)
    scale = plain.abs() + plain.abs().mean()
    noise = ((again - plain).abs() / scale).max()
    assert ((replayed - plain).abs() / scale).max() <= 10 * noise + 1e-6
    assert allocated[-1] <= allocated[-3] + 2**20, "memory grows after all kinds of steps are recorded"
