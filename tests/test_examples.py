"""Every example runs as its reader would run it, and what it prints is what its text says."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pyeqgan import cli

EXAMPLES = Path(__file__).parent.parent / "examples"
FLAGS = "--image-size 32 --width 0.125 --steps 20 --batch-size 4 --penalty none --ema-decay 0.9 --device cpu"


def _run(example, *arguments):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, EXAMPLES / example, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def _numbers(text, pattern):
    return [[float(number) for number in found] for found in re.findall(pattern, text)]


@pytest.mark.parametrize("example", sorted(path.name for path in EXAMPLES.glob("*.py")))
def test_it_says_how_it_is_run_and_what_to_expect(example):
    told = _run(example, "--help")
    assert f"python examples/{example}" in told
    assert len(told.split("python examples/")[1].split("options")[0].split()) > 20


def test_training_loop_learns():
    lines = _numbers(_run("training_loop.py"), r"reconstruction ([\d.]+), consistency ([\d.]+)")
    (first, consistency), (last, later) = lines[0], lines[-1]
    assert len(lines) == 6 and last < 0.85 * first and later < 0.7 * consistency


def test_contrastive_segmentation_finds_the_classes():
    told = _run("contrastive_segmentation.py")
    (alone, (overlap, gap)) = _numbers(told, r"mean IoU ([\d.]+), cosine gap ([\d.]+)")
    assert overlap > 0.4 and gap > 0.5, (told, alone)


def test_augment_classifier_recognises_unseen_classes(tmp_path, capsys):
    run = tmp_path / "run"
    assert cli.main(["train", "--output", str(run), *FLAGS.split()]) == 0
    assert cli.main(["export", "--checkpoint", str(run), "--output", str(tmp_path / "given")]) == 0
    capsys.readouterr()
    told = _run("augment_classifier.py", "--pretrained", tmp_path / "given")
    ((alone, augmented),) = _numbers(told, r"([\d.]+); with .*: ([\d.]+)")
    assert alone > 0.3 and augmented > 0.2 + 0.02, "one in five is chance"


def test_accelerate_model_swaps_both_blocks():
    told = _run("accelerate_model.py", "--channels", 32, "--size", 8, "--rounds", 1)
    assert "swapped: 2" in told and "a step takes" in told
    assert "verified: outputs and gradients differ by at most" in told
