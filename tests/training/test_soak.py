"""A long run: `pytest -m slow tests/training/test_soak.py`."""

from pathlib import Path

import pytest
import runs

from pyeqgan.training.engine import Engine


def resident() -> int:
    """Mebibytes of the process that are in memory."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) // 1024


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("steps", [2000])
def test_memory_is_flat(tmp_path, monkeypatch, steps):
    advance, grown = Engine.advance, []

    def advance_and_look(engine, batch):
        losses = advance(engine, batch)
        grown.append(resident())
        return losses

    monkeypatch.setattr(Engine, "advance", advance_and_look)
    every = {"log_every": 10, "checkpoint_every": 200, "sample_every": 200}
    assert runs.run(runs.write_photos(tmp_path / "photos"), tmp_path / "run", steps=steps, **every)[0] == 0
    quarter = len(grown) // 4
    print([max(grown[i : i + quarter]) for i in range(0, len(grown), quarter)])
    assert max(grown[-quarter:]) < 1.15 * max(grown[quarter : 2 * quarter])
