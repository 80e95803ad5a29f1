"""The tools that measure: what they store and tell, and that they can tell a slowdown."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import random
import subprocess
from functools import partial
from pathlib import Path

import pytest
import torch
from sampling import seed_everything

from pyeqgan.benchmarks import ablation, baselines, compare, curves, harness, machine, report, step
from pyeqgan.benchmarks.cases import cases
from pyeqgan.data.layouts import source
from pyeqgan.errors import UserError
from pyeqgan.options import EvaluateOptions

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """The file of a small run."""
    output = tmp_path_factory.mktemp("results") / "machine" / "2000-01-01T0000Z.json"
    options = {"threads": (1,), "rounds": 2, "compiled": False, "tiny": True, "scaled": True, "steps": True}
    status = harness.main(("bilateral_propagation", "contrastive_loss"), **options, output=output, command="make bench")
    assert status == 0
    return output


def test_a_run_stores_raw_numbers_and_where_they_come_from(stored):
    kept = json.loads(stored.read_text())
    assert kept["environment"]["command"] == "make bench"
    assert {"commit", "date", "processor", "processors", "packages", "cpu"} <= kept["environment"].keys()
    assert [r["threads"] for r in kept["roofs"]] == [1]
    assert {r["operation"] for r in kept["results"]} == {"bilateral_propagation", "contrastive_loss"}
    assert len(kept["scaling"]) == 2
    assert {r["variant"] for r in kept["steps"]} == set(step.VARIANTS)
    for result in kept["results"] + kept["scaling"] + kept["steps"]:
        assert result["error"] < harness.TOLERANCE
        assert {len(t["seconds"]) for t in result["timings"].values()} == {2}
        low, high = result["ratio_interval"]
        assert low <= result["ratio"] <= high
    assert str(ROOT) not in stored.read_text() and str(Path.home()) + "/" not in stored.read_text()


def test_a_stored_run_is_read_back_as_it_was(stored):
    run = report.load(stored)
    kept = json.loads(stored.read_text())
    assert [json.loads(json.dumps(dataclasses.asdict(r))) for r in run.results] == kept["results"]


def test_the_report_tells_every_case(stored):
    (page,) = report.write([stored])
    text = page.read_text()
    run = report.load(stored)
    for result in run.results:
        assert f"| {result.problem} | {result.layout} | 1 |" in text
    for result in run.steps:
        assert f"| {result.problem} | 1 | {result.variant} |" in text
    assert "`contrastive_loss`, self" in text and "`contrastive_loss`, separate keys" in text
    for figure in ("ratios.svg", "scaling.svg"):
        assert f"({figure})" in text and (page.parent / figure).read_text().count("<path") > 10
    before = (page.parent / "ratios.svg").read_bytes()
    report.write([stored])
    assert (page.parent / "ratios.svg").read_bytes() == before


def result(ratio, interval, **changes):
    timings = {n: harness.timing([t, t], 2**20) for n, t in (("pyeqgan", ratio), ("eager", 1.0))}
    fields = {
        "operation": "op",
        "variant": "",
        "problem": "P",
        "layout": "contiguous",
        "threads": 2,
        "stage": "forward",
    }
    return harness.Result(
        **(fields | changes), timings=timings, error=0, ratio=ratio, ratio_interval=interval, flops=0, bytes=4e9
    )


def test_the_headline_holds_the_geometric_mean_and_the_worst_case():
    results = [
        result(0.25, (0.2, 0.3)),
        result(1.0, (0.9, 1.2), problem="Q"),
        result(4.0, (3.0, 5.0), operation="other"),
    ]
    run = report.Run(Path("x.json"), {}, {2: {"gflops": 100, "gbytes": 10}}, results, [], [])
    _, _, first, second = report.headline(run)
    assert first == "| `op` | forward | 2 | **0.50** (of 2) | 1.00 | Q, contiguous |"
    assert "**4.00**" in second
    slower, unsure = report.losses(run)
    assert slower.startswith("- slower: `other`") and unsure.startswith("- undecided: `op`: Q")
    assert report.rate(run, results[1]) == "4 GB/s, 40%"


def test_the_other_runs_of_a_folder_get_a_line(stored, tmp_path):
    for year in ("2001", "2002"):
        kept = json.loads(stored.read_text())
        kept["environment"]["date"] = f"{year}-01-01T00:00Z"
        (tmp_path / f"{year}.json").write_text(json.dumps(kept))
    (page,) = report.write(tmp_path.glob("*.json"))
    text = page.read_text()
    assert "Made from [2002.json]" in text and "| [2001.json](2001.json) |" in text


def test_what_does_not_match_gets_no_time(tmp_path):
    (case, *_) = harness.select(("contrastive_loss",), tiny=True)
    wrong = dataclasses.replace(case, ours=lambda q: 1.01 * case.ours(q))
    measured = harness.measure(wrong, "contiguous", 1, compiled=False)
    assert measured.timings == {} and measured.ratio is None and measured.error > harness.TOLERANCE
    assert "does not match" in harness.line(measured)
    run = report.Run(tmp_path / "x.json", machine.environment(), {1: {"gflops": 1, "gbytes": 1}}, [measured], [], [])
    assert any(line.startswith("- `contrastive_loss`, self") for line in report.page(run, []))


def test_a_step_that_does_not_match_gets_no_time(monkeypatch):
    ours, wrong = step.generator_step, step.LossWeights(consistency=1.1)
    monkeypatch.setattr(step, "generator_step", lambda *a, weights, plan: ours(*a, weights=wrong, plan=plan))
    for measured in step.measure(step.problems(tiny=True)[0], 1, compiled=False):
        assert measured.timings == {} and measured.error > harness.TOLERANCE


@pytest.mark.parametrize("stage", harness.STAGES)
def test_every_tiny_case_matches_in_every_stage(stage):
    for case in cases(tiny=True):
        if stage == "penalty" and not case.twice:
            continue
        torch.manual_seed(0)
        inputs = [t.requires_grad_() for t in case.make(torch.contiguous_format)]
        assert harness.match_error(case, inputs, stage) < harness.TOLERANCE, case.operation


def test_cases_are_the_same_in_every_run():
    first, second = (
        [case.eager(*case.make(torch.contiguous_format)) for case in cases(tiny=True) if torch.manual_seed(3)]
        for _ in range(2)
    )
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_contenders_take_turns():
    order = []
    contenders = {name: lambda name=name: order.append(name) for name in "abc"}
    times = harness.interleave(contenders, rounds=3, budget=10)
    assert order == [*"aabbcc", *"abc" * 3] and {len(t) for t in times.values()} == {3}


def test_the_interval_of_a_ratio():
    assert harness.bootstrap_ratio([3.0] * 9, [2.0] * 9) == (1.5, 1.5)
    draw = random.Random(seed_everything())
    noise = [draw.gauss(1, 0.05) for _ in range(60)]
    low, high = harness.bootstrap_ratio([1.5 * draw.gauss(1, 0.05) for _ in noise], noise)
    assert 1.4 < low < high < 1.6


def test_peak_memory_is_what_the_call_adds():
    peak = machine.peak_bytes(lambda: torch.ones(32 * 2**20).sum())
    if peak is None:
        pytest.skip("the system does not tell the process's peak")
    assert 120 * 2**20 < peak < 200 * 2**20


def test_the_contrastive_loss_in_chunks_is_the_contrastive_loss():
    seed_everything()
    queries, labels = torch.randn(50, 8, dtype=torch.float64), torch.randint(30, (50,))
    whole = baselines.contrastive_loss(queries, labels)
    torch.testing.assert_close(baselines.contrastive_loss_in_chunks(queries, labels, rows=16), whole)


def test_wrong_requests_are_told(tmp_path):
    with pytest.raises(UserError, match="bench: op: expected one of"):
        harness.main(("nonsense",))
    with pytest.raises(UserError, match=r"bench: rounds: expected at least 2.*got 1"):
        harness.main((), rounds=1)
    with pytest.raises(UserError, match="bench: stages: expected among"):
        harness.main((), stages=("nonsense",))
    old = tmp_path / "old.json"
    old.write_text("kept")
    with pytest.raises(UserError, match=r"expected a new file, .*old\.json exists"):
        harness.main((), output=old)
    assert old.read_text() == "kept"


class Told:
    """A side whose cases take the seconds it is told, give or take 5 %, whatever the machine is doing."""

    def __init__(self, name: str, seconds: float, seed: int, problem: str = "") -> None:
        self.name = name
        self._seconds = seconds
        self._draw = random.Random(seed)
        self._answer = {"problem": problem} if problem else {"error": 0.0}

    def ask(self, **request):
        return self._answer

    def seconds(self, repeats: int = 1) -> float:
        return self._seconds * self._draw.gauss(1, 0.05)


def local_fusions():
    return [(i, c) for i, c in enumerate(cases(tiny=True)) if c.operation == "local_fusion"]


def verdict(base: float, head: float, chosen=None, problem: str = "") -> int:
    """What a comparison says of two sides that take so many seconds."""
    seed = seed_everything()
    sides = Told("base", base, seed), Told("head", head, seed + 1, problem)
    return compare.compare_all(*sides, local_fusions() if chosen is None else chosen, rounds=60, budget=5)


def test_a_slowdown_is_found_and_noise_is_not(capsys):
    assert verdict(base=1, head=1.5) == 1
    assert "SLOWER" in capsys.readouterr().out
    assert verdict(base=1, head=1) == verdict(base=1.5, head=1) == 0
    assert "SLOWER" not in capsys.readouterr().out


def test_a_comparison_of_nothing_or_of_what_fails_is_no_success(capsys):
    assert verdict(base=1, head=1, chosen=[]) == 1
    assert verdict(base=1, head=1, problem="it does not run") == 1
    assert "not on head: it does not run" in capsys.readouterr().out


def test_two_processes_run_the_cases_in_turn(capsys):
    """Not a word on their times: on a busy machine anything may come out."""
    sides = [compare.Side(name, ROOT, 1, "forward", "tiny") for name in ("base", "head")]
    try:
        compare.compare_all(*sides, local_fusions(), rounds=3, budget=5)
    finally:
        for side in sides:
            side.close()
    told = capsys.readouterr().out
    assert f"{len(local_fusions())} compared, " in told and "0 failed on head" in told
    assert [side.process.returncode for side in sides] == [0, 0]


def test_copies_for_a_comparison_leave_the_checkout_alone(tmp_path):
    repository = tmp_path / "repository"
    repository.mkdir()

    def git(*arguments):
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        return subprocess.run(
            ["git", *who, *arguments], cwd=repository, check=True, capture_output=True, text=True
        ).stdout

    git("init", "-q")
    for name, text in ((".gitignore", "ignored\n"), ("changed", "before"), ("gone", "here")):
        (repository / name).write_text(text)
    git("add", ".")
    git("commit", "-qm", "first")
    (repository / "changed").write_text("after")
    (repository / "new").write_text("new")
    (repository / "ignored").write_text("ignored")
    (repository / "gone").unlink()
    status = git("status", "--porcelain")
    base = compare.export(repository, "HEAD", tmp_path / "base")
    head = compare.export(repository, None, tmp_path / "head")
    assert (base / "changed").read_text() == "before" and (base / "gone").exists() and not (base / "new").exists()
    assert (head / "changed").read_text() == "after" and (head / "new").exists()
    assert not (head / "gone").exists() and not (head / "ignored").exists()
    assert git("status", "--porcelain") == status and git("worktree", "list").count("\n") == 1
    with pytest.raises(compare.ComparisonError, match="base: "):
        compare.export(repository, "nonsense", tmp_path / "none")


def test_the_instruction_gate_fails_above_three_per_cent():
    source = importlib.util.spec_from_file_location("gate", ROOT / "benchmarks/callgrind/gate.py")
    gate = importlib.util.module_from_spec(source)
    source.loader.exec_module(gate)
    recorded = {"a": 1000, "b": 1000, "gone": 1000}
    wrong = gate.compare({"a": 1031, "b": 1029, "new": 5}, recorded)
    assert sorted(w.partition(":")[0] for w in wrong) == ["a", "gone", "new"]
    assert gate.compare({"a": 500}, {"a": 1000}) == []


def test_the_ablation_is_done_once_and_tabled(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(ablation, "CONTRASTS", ("none", "multi"))
    monkeypatch.setattr(ablation, "SEEDS", (0,))
    small = {"image_height": 16, "image_width": 16, "upsamplings": 3, "batch_size": 2}
    monkeypatch.setattr(ablation, "TRAINING", {**ablation.TRAINING, **small})
    monkeypatch.setattr(source, "EMBEDDED_TRAIN", 20)
    monkeypatch.setattr(source, "EMBEDDED_TEST", 12)
    monkeypatch.setattr(ablation, "EvaluateOptions", partial(EvaluateOptions, feature_steps=2))
    output, file = tmp_path / "runs", tmp_path / "table.json"
    for _ in range(2):
        ablation.main(["--output", str(output), "--steps", "1"])
    told = capsys.readouterr().out
    assert told.count("finished: 1 steps") == 2 and told.count("is finished: all its 1 steps are done") == 2
    assert len(list(output.glob("*/evaluation/segmenter_*.safetensors"))) == 2
    ablation.main(["--output", str(output), "--steps", "1", "--table", str(file)])
    rows = capsys.readouterr().out.splitlines()
    assert [row.split(" | ")[0] for row in rows[2:]] == ["| none", "| multi", "| painter", "| real"]
    kept = json.loads(file.read_text())
    numbers = json.loads((output / "multi-0" / "evaluation" / "metrics.json").read_text())
    expected = numbers["scores"]["generator"]["estimates"]["miou"]["value"]
    assert kept["generator"]["multi"]["miou"] == [expected] and f"{expected:.3f}" in rows[3]
    with pytest.raises(SystemExit):
        ablation.main(["--output", str(output), "--runs", "both-7"])


def test_curves_part_by_rounding_alone(tmp_path, monkeypatch, capsys):
    small = {"image_height": 16, "image_width": 16, "upsamplings": 3, "batch_size": 2}
    monkeypatch.setattr(curves, "TRAINING", {**curves.TRAINING, **small})
    file = tmp_path / "kept" / "curves.json"
    curves.main(["--steps", "3", "--output", str(file)])
    kept = json.loads(file.read_text())["curves"]
    assert {name: len(curve) for name, curve in kept.items()} == {"fused": 3, "oracles": 3, "moved": 3}
    assert kept["fused"] != kept["moved"]
    rows = capsys.readouterr().out.splitlines()[2:]
    assert len(rows) == len(kept["fused"][0]) and all(row.count("| 3 ") == 6 for row in rows)
    other = [{"loss": 1.0}, {"loss": 2.5}, {"loss": 0.0}]
    assert curves.steps_within(0.1, "loss", [{"loss": 1.2}, {"loss": 2.0}, {"loss": 0.0}], other) == 1
    assert curves.steps_within(0.3, "loss", other, other) == 3
