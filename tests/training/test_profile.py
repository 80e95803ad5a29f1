import gzip
import json
import shutil

import pytest
import runs

from pyeqgan.errors import UserError
from pyeqgan.training.profile import PARTS, STEPS, WARM_UP

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return runs.write_photos(tmp_path_factory.mktemp("data") / "photos")


def contents(path):
    return {file.relative_to(path): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def test_a_profile_tells_every_part_and_starts_no_run(photos, tmp_path):
    path = tmp_path / "run"
    status, told = runs.run(photos, path, profile=True)
    assert status == 0
    assert sorted(file.name for file in path.rglob("*")) == ["profile", "table.txt", "trace.json.gz"]
    table = (path / "profile" / "table.txt").read_text()
    assert told.startswith(table)
    lines = table.splitlines()
    assert lines[0].startswith(f"steps {WARM_UP + 1} to {WARM_UP + STEPS}: ") and "MiB" in lines[0]
    parts = {line[:64].rstrip(): line[64:].split() for line in lines[3 : 3 + len(PARTS) + 1]}
    assert list(parts) == [*PARTS, "rest"]
    assert sum(float(share.rstrip("%")) for _, share in parts.values()) == pytest.approx(100, abs=0.1 * len(parts))
    assert all(float(milliseconds) > 0 for milliseconds, _ in parts.values())
    assert "pyeqgan::activated_conv2d_backward" in table
    trace = json.loads(gzip.decompress((path / "profile" / "trace.json.gz").read_bytes()))
    assert set(PARTS) <= {event.get("name") for event in trace["traceEvents"]}

    assert runs.run(photos, path, steps=1)[0] == 0, "a run may start where a profile is"
    assert runs.run(photos, path, steps=1, force=True)[0] == 0
    assert not (path / "profile").exists()


def test_the_profile_of_a_run_leaves_it_as_it_is(photos, tmp_path):
    path, straight = tmp_path / "run", tmp_path / "straight"
    assert runs.run(photos, path, steps=4)[0] == runs.run(photos, straight, steps=6)[0] == 0
    (path / "checkpoints" / "step_00000004" / "ema.safetensors").write_bytes(b"damaged")
    before = contents(path)
    status, told = runs.run(photos, path, resume=True, profile=True, penalty_every=1)
    assert status == 0 and "step_00000004 is damaged" in told
    assert f"steps {2 + WARM_UP + 1} to {2 + WARM_UP + STEPS}: " in told
    shutil.rmtree(path / "profile")
    assert contents(path) == before


def test_a_step_without_penalty_has_no_second_order(photos, tmp_path):
    assert runs.run(photos, tmp_path / "run", profile=True, penalty="none")[0] == 0
    table = (tmp_path / "run" / "profile" / "table.txt").read_text()
    assert "discriminator: backward " in table
    assert "second order" not in table and "penalty" not in table


def test_a_profile_replaces_nothing(photos, tmp_path):
    with pytest.raises(UserError, match="--profile keeps what is there and --force replaces it"):
        runs.run(photos, tmp_path / "run", profile=True, force=True)
    assert runs.run(photos, tmp_path / "run", steps=1)[0] == 0
    with pytest.raises(UserError, match="already holds a run"):
        runs.run(photos, tmp_path / "run", profile=True)
