import secrets
import shutil

import numpy as np
import pytest
import runs
from PIL import Image

from pyeqgan import cli
from pyeqgan.data.folders import read_image

PICTURES = [f"generated_{index:03d}.png" for index in range(5)]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return runs.write_photos(tmp_path_factory.mktemp("data") / "photos")


@pytest.fixture(scope="module")
def trained(photos, tmp_path_factory):
    path = tmp_path_factory.mktemp("trained") / "run"
    assert runs.run(photos, path, shots=2)[0] == 0
    return path


@pytest.fixture
def generate(photos, trained, capsys):
    def generate(output, *more, images=3, checkpoint=trained, count=5):
        pictures = (
            [str(photos / "d" / f"{index}.png") for index in range(images)] if isinstance(images, int) else images
        )
        arguments = ["--checkpoint", checkpoint, "--images", *pictures, "--output", output, "--count", count, *more]
        status = cli.main(["generate", *map(str, arguments)])
        told = capsys.readouterr()
        return status, told.out, told.err

    return generate


def pixels(path):
    return np.asarray(Image.open(path))


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_pictures_and_a_grid_with_the_given_images_first(generate, photos, tmp_path):
    status, out, err = generate(tmp_path / "new")
    assert (status, err) == (0, "")
    assert out == f"5 images and grid.png in {tmp_path / 'new'}\n"
    assert sorted(contents(tmp_path / "new")) == [*PICTURES, "grid.png"]
    images = [pixels(tmp_path / "new" / name) for name in PICTURES]
    assert all(image.shape == (32, 32, 3) for image in images)
    assert len({image.tobytes() for image in images}) == 5
    grid = pixels(tmp_path / "new" / "grid.png")
    for index in range(3):
        given = read_image(photos / "d" / f"{index}.png", 32)
        left = 2 + 34 * index
        assert np.array_equal(grid[2:34, left : left + 32], given)
        below = 36 + 10 + 2
        assert np.array_equal(grid[below : below + 32, left : left + 32], images[index])
        if index < 2:
            assert np.array_equal(grid[below + 34 : below + 66, left : left + 32], images[index + 3])


def test_a_seed_gives_the_same_files_and_another_one_others(generate, trained, tmp_path):
    generate(tmp_path / "a", "--seed", 3)
    generate(tmp_path / "b", "--seed", 3, checkpoint=trained / "checkpoints" / "step_00000004")
    generate(tmp_path / "c", "--seed", 4)
    assert contents(tmp_path / "a") == contents(tmp_path / "b") != contents(tmp_path / "c")


@pytest.mark.parametrize(
    ("images", "told"), [(1, "each image fuses 1 of those given, in training it was 2\n"), (2, "")]
)
def test_any_number_of_images_does(generate, tmp_path, images, told):
    status, out, _ = generate(tmp_path / "new", images=images)
    assert status == 0 and out == told + f"5 images and grid.png in {tmp_path / 'new'}\n"


def test_the_number_that_is_fused_can_be_chosen(generate, tmp_path):
    assert generate(tmp_path / "new", "--shots", 3)[1].startswith("each image fuses 3 of those given")


def test_shares_of_the_images_can_be_given(generate, tmp_path):
    assert generate(tmp_path / "even")[0] == 0
    assert generate(tmp_path / "uneven", "--weights", 9, 1, 1)[0] == 0
    assert contents(tmp_path / "even")["generated_000.png"] != contents(tmp_path / "uneven")["generated_000.png"]
    for weights, wrong in (([1, 2], "3 numbers, one for each image"), ([1, 0, 1], "finite numbers above 0")):
        status, _, err = generate(tmp_path / "no", "--weights", *weights)
        assert status == 2 and wrong in err and err.count("\n") == 1


def test_images_of_any_size_and_mode_are_read(generate, tmp_path):
    seed = secrets.randbits(31)
    print(f"seed {seed}")
    rng = np.random.default_rng(seed)
    files = []
    for index, shape in enumerate([(7, 90, 3), (200, 31), (40, 40, 4), (1, 1, 3)]):
        files.append(tmp_path / f"{index}.png")
        Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(files[-1])
    assert generate(tmp_path / "new", images=files)[0] == 0


def test_nothing_is_overwritten_without_force_and_only_our_files_with_it(generate, tmp_path):
    generate(tmp_path / "new")
    (tmp_path / "new" / "mine.png").write_bytes(b"mine")
    before = contents(tmp_path / "new")
    status, out, err = generate(tmp_path / "new", count=2)
    assert (status, out) == (2, "")
    told = f"pyeqgan: {tmp_path / 'new'} already holds generated_000.png: --force replaces what generate wrote there\n"
    assert err == told
    assert contents(tmp_path / "new") == before
    assert generate(tmp_path / "new", "--force", count=2)[0] == 0
    assert sorted(contents(tmp_path / "new")) == [*PICTURES[:2], "grid.png", "mine.png"]


def test_what_is_no_image_is_named_and_nothing_is_written(generate, photos, tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    for file in (tmp_path / "text.png", tmp_path / "none.png", photos):
        status, out, err = generate(tmp_path / "new", images=[photos / "d" / "0.png", file])
        assert (status, out) == (2, "")
        assert err.startswith("pyeqgan: cannot read image") and err.count(str(file)) == 1 and err.count("\n") == 1
    assert not (tmp_path / "new").exists()


def test_a_full_disk_leaves_whole_pictures_alone(generate, trained, tmp_path):
    assert generate(tmp_path / "first")[0] == 0
    largest = max(len(data) for name, data in contents(tmp_path / "first").items() if name != "grid.png")
    with runs.full_disk(largest):
        status, _, err = generate(tmp_path / "new")
    assert status == 2 and "grid.png: File too large" in err and err.count("\n") == 1
    expected = {name: data for name, data in contents(tmp_path / "first").items() if name != "grid.png"}
    assert contents(tmp_path / "new") == expected


def test_a_damaged_checkpoint_is_passed_over_and_said(generate, trained, tmp_path):
    run = shutil.copytree(trained, tmp_path / "run")
    (run / "checkpoints" / "step_00000004" / "ema.safetensors").write_bytes(b"short")
    status, out, _ = generate(tmp_path / "new", checkpoint=run)
    assert status == 0 and "step_00000004 is damaged: ema.safetensors" in out
    status, _, err = generate(tmp_path / "other", checkpoint=run / "checkpoints" / "step_00000004")
    assert status == 2 and "is damaged" in err and err.count("\n") == 1


def test_the_output_must_be_a_folder_that_can_be_written(generate, tmp_path):
    (tmp_path / "file").write_text("mine")
    status, _, err = generate(tmp_path / "file")
    assert status == 2 and err.startswith("pyeqgan: cannot write")
    with runs.full_disk(100):
        status, _, err = generate(tmp_path / "new")
    assert status == 2 and err == f"pyeqgan: cannot write {tmp_path / 'new' / PICTURES[0]}: File too large\n"


@pytest.mark.parametrize("option", [("--resume",), ("--instances", "maps")])
def test_what_paints_layouts_alone_is_refused(generate, tmp_path, option):
    status, _, err = generate(tmp_path / "new", *option)
    assert status == 2 and err == f"pyeqgan: {option[0]} does not apply to a checkpoint of --model eqgan\n"
    assert not (tmp_path / "new").exists()
