import dataclasses
import errno
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import runs

import pyeqgan.options.train_eqgan
from pyeqgan import cli
from pyeqgan.commands.bench import BenchOptions
from pyeqgan.options import EqGANOptions, flag


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return runs.write_photos(tmp_path_factory.mktemp("data") / "photos")


def call(capsys, *arguments):
    status = cli.main([str(argument) for argument in arguments])
    told = capsys.readouterr()
    return status, told.out, told.err


def help_of(capsys, *command):
    with pytest.raises(SystemExit) as end:
        cli.main([*command, "--help"])
    assert not end.value.code
    return capsys.readouterr().out


def python(*arguments, encoding="utf-8"):
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, encoding=encoding, timeout=60, env=environment
    )


def test_help_lists_the_commands_each_on_its_line(capsys):
    for command in cli.COMMANDS:
        *group, name = command.split()
        assert re.search(rf"• {name} +[A-Z]", help_of(capsys, *group))


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_option_is_explained_and_every_command_has_an_example(capsys, command):
    told = help_of(capsys, *command.split())
    assert f"examples:\n  pyeqgan {command}" in told
    text = re.sub(r"│|\{.*?\}", "", told.partition("show this help message")[2], flags=re.DOTALL)
    text = " ".join(text.split())
    for field in dataclasses.fields(cli.COMMANDS[command].options):
        if "Positional" in str(field.type):
            assert re.search(r"positional arguments[^╰]*[A-Z]{3} +[A-Z][a-z ]+", told), field.name
            continue
        explained = rf"{flag(field.name)}(, --\S+)? [^a-z(]*[a-z]{{2}}"  # a word between the flag and "(default: …)"
        assert re.search(explained, text), field.name
    twice = re.search(r"Default: ((?! --)[^(])*\(default: ", text)
    assert not twice, "a default is told once"


def test_the_flags_are_those_that_were_promised(capsys):
    train = help_of(capsys, "train")
    promised = "data output steps image-size batch-size shots width seed checkpoint-every device precision resume force"
    of_processes = "devices nodes strategy"
    assert all(re.search(rf"^[ │]+--{n}\b", train, re.MULTILINE) for n in f"{promised} {of_processes}".split())
    assert "--no-resume" not in train and "--no-force" not in train
    assert "{auto,cpu,cuda}" in train and "{32,bf16-mixed}" in train
    generate = help_of(capsys, "generate")
    assert all(
        re.search(rf"^[ │]+--{name}\b", generate, re.MULTILINE)
        for name in ["checkpoint", "images", "count", "output", "seed"]
    )


def test_help_needs_no_torch_and_python_m_is_the_same_command():
    asked = "import sys; from pyeqgan import cli\ntry: cli.main(['train', '--help'])\nfinally:"
    asked += " assert 'torch' not in sys.modules"
    light, module = python("-c", asked), python("-m", "pyeqgan", "train", "--help")
    assert (light.returncode, module.returncode) == (0, 0), light.stderr + module.stderr
    assert light.stdout == module.stdout


def test_who_reads_the_output_may_stop(tmp_path):
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as closed, open("/dev/full", "w") as full:
        ended = [
            subprocess.run(
                [sys.executable, "-m", "pyeqgan", "info"], stdout=out, stderr=subprocess.PIPE, text=True, timeout=240
            )
            for out in (closed, full)
        ]
    assert (ended[0].returncode, ended[0].stderr) == (128 + signal.SIGPIPE, "")
    assert ended[1].returncode == 2
    assert ended[1].stderr == "pyeqgan: No space left on device\n"


def test_what_the_system_refuses_is_one_line(capsys, monkeypatch, tmp_path):
    def refuse(self, **_):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))

    monkeypatch.setattr(pathlib.Path, "exists", refuse)  # root, who runs tests in containers, is refused nothing
    status, _, err = call(capsys, "export", "--checkpoint", tmp_path, "--output", tmp_path / "new")
    assert status == 2 and err.startswith(f"pyeqgan: cannot use {tmp_path}") and err.endswith(": Permission denied\n")


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_a_mistake_is_told_alike_in_every_encoding(encoding):
    told = python("-m", "pyeqgan", "train", "--device", "tpu", encoding=encoding)
    assert (told.returncode, told.stdout) == (2, "")
    expected = (
        "invalid choice 'tpu' for argument '--device'. Expected one of ('auto', 'cpu', 'cuda'). (--help tells more)"
    )
    assert told.stderr == f"pyeqgan: {expected}\n"
    told = python("-m", "pyeqgan", "generate", "--help", encoding=encoding)
    assert (told.returncode, told.stderr) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("", "Expected one of {train"),
        ("paint", "paint"),
        ("train", "Missing from pyeqgan train: --output PATH (--help tells more)"),
        ("train --output OUT --device tpu", "invalid choice 'tpu' for argument '--device'"),
        ("train --output OUT --device cuda", "--device cuda: torch sees no CUDA device"),
        ("train --output OUT --colour red", "--colour"),
        ("train --output OUT --steps many", "--steps"),
        ("train --output OUT --steps 0", "--steps 0, expected at least 1"),
        ("train --output OUT --batch-size 0", "--batch-size 0, expected at least 1"),
        ("train --output OUT --nodes 2", "--nodes 2: expected MASTER_ADDR, MASTER_PORT, NODE_RANK in the environment"),
        ("train --output OUT --nodes 0", "--nodes 0, expected at least 1"),
        ("train --output OUT --devices 3 --nodes 2", "--batch-size 2, expected a multiple of the 6 processes"),
        ("train --output OUT --shots 0", "--shots 0, expected at least 1"),
        ("train --output OUT --shots 4", "class 'a' has 3 images, expected at least 4"),
        ("train --output OUT --seed -1", "--seed -1, expected 0 to 4294967295"),
        ("train --output OUT --image-size 40", "--image-size 40, expected a multiple of 16"),
        ("train --output OUT --width nan", "--width nan, expected a finite number above 0"),
        ("train --output OUT --width 0", "--width 0.0, expected a finite number above 0"),
        ("train --output OUT --learning-rate inf", "--learning-rate inf"),
        ("train --output OUT --penalty-weight -1", "--penalty-weight -1.0"),
        ("train --output OUT --ema-decay 1", "--ema-decay 1.0"),
        ("train --output OUT --fusion-rate 2", "--fusion-rate 2.0"),
        ("train --output OUT --seen-classes 9", "seen classes 9, expected 1 to 4"),
        ("train --output OUT --data NONE", "no folder"),
        ("train --output OUT --data EMPTY", "no class folders"),
        ("train --output OUT --data BROKEN", "cannot read image"),
        ("train --output FILE/run", "cannot write"),
        ("train --output FILE", "cannot write"),
        ("train --output /proc/run", "cannot write /proc/run"),
        ("train --output OUT --resume", "no run in"),
        ("train --output OUT --resume --force", "expected one of them, got both"),
        ("generate --checkpoint NONE --images PICTURE --output OUT", "no checkpoint in"),
        ("generate --checkpoint EMPTY --images PICTURE --output OUT", "no checkpoint in"),
        (
            "generate --checkpoint NONE --images --output OUT",
            "expected --images (of an EqGAN) or --layouts (of an ECGAN), got neither",
        ),
        ("generate --checkpoint NONE --images PICTURE --output OUT --count 0", "--count 0"),
        ("generate --checkpoint NONE --images PICTURE --output OUT --shots 2", "--shots 2, expected 1 to 1"),
        ("evaluate --checkpoint NONE --output OUT", "no checkpoint in"),
        ("evaluate --checkpoint NONE --output OUT --fakes-per-class 0", "--fakes-per-class 0"),
        ("evaluate --checkpoint NONE --output OUT --device cuda", "--device cuda: torch sees no CUDA device"),
    ],
)
def test_bad_input_is_answered_on_one_line(capsys, photos, tmp_path, arguments, expected):
    (tmp_path / "EMPTY").mkdir()
    (tmp_path / "FILE").write_text("mine")
    for index in range(3):
        picture = tmp_path / "BROKEN" / "a" / f"{index}.png"
        picture.parent.mkdir(parents=True, exist_ok=True)
        picture.write_text("no picture")
    places = {name: tmp_path / name for name in ("OUT", "NONE", "EMPTY", "FILE", "BROKEN")}
    places["PICTURE"] = photos / "a" / "0.png"
    words = [re.sub(r"^[A-Z]+", lambda name: str(places[name[0]]), word) for word in arguments.split()]
    if "train" in words and "--data" not in words and "--resume" not in words:
        words += ["--data", str(photos)]
    if words[:1] == ["train"]:
        small = [*runs.FLAGS, "--steps", "2"]
        given = {word for word in words if word.startswith("--")}
        words += [w for pair in zip(small[::2], small[1::2], strict=True) if pair[0] not in given for w in pair]
    status, out, err = call(capsys, *words)
    assert status == 2
    assert out == ""
    assert err.startswith("pyeqgan: ") and err.count("\n") == 1 and expected in err
    if "BROKEN" not in arguments:
        assert not (tmp_path / "OUT").exists()
    assert (tmp_path / "FILE").read_text() == "mine"


def test_a_resumed_run_needs_no_options_but_its_folder(capsys, photos, tmp_path):
    common = ["--data", photos, "--output", tmp_path / "run", *runs.FLAGS, "--no-flip"]
    assert call(capsys, "train", *common, "--steps", 1)[0] == 0
    status, out, _ = call(capsys, "train", "--output", tmp_path / "run", "--resume")
    assert (status, out) == (0, f"{tmp_path / 'run'} is finished: all its 1 steps are done\n")
    status, out, _ = call(capsys, "train", *common, "--resume", "--steps", 2)
    assert status == 0 and "resuming" in out and "finished: 2 steps" in out
    away = photos.rename(photos.with_name("away"))
    try:
        status, _, err = call(capsys, "train", "--output", tmp_path / "run", "--resume", "--steps", 3)
        assert status == 2 and "no folder" in err and "--data tells their new place" in err and err.count("\n") == 1
        status, out, _ = call(capsys, "train", "--output", tmp_path / "run", "--resume", "--steps", 3, "--data", away)
        assert status == 0 and "finished: 3 steps" in out
        spare = shutil.copy(away / "a" / "0.png", away / "a" / "more.png")
        status, _, err = call(capsys, "train", "--output", tmp_path / "run", "--resume", "--steps", 4)
        assert status == 2 and "are not what they were" in err
        Path(spare).unlink()
    finally:
        away.rename(photos)
    again = ["--resume", "--data", photos]
    status, _, err = call(capsys, "train", "--output", tmp_path / "run", *again, "--width", 1, "--flip")
    assert status == 2
    assert err == (
        f"pyeqgan: cannot resume {tmp_path / 'run'} with other options: "
        "--width was 0.125, now 1.0; --flip was False, now True\n"
    )


def test_an_error_of_ours_keeps_its_traceback(monkeypatch):
    broken = dataclasses.replace(cli.COMMANDS["info"], run=lambda options: 1 / 0)
    monkeypatch.setitem(cli.COMMANDS, "info", broken)
    with pytest.raises(ZeroDivisionError):
        cli.main(["info"])


def test_info_and_doctor_answer(capsys):
    status, out, _ = call(capsys, "info", "--json")
    assert status == 0 and out.startswith("{")
    status, out, _ = call(capsys, "doctor")
    assert status == 0 and "bilateral_propagation" in out


def test_bench_measures_what_it_is_told_to(capsys):
    told = ["--op", "bilateral_propagation", "--threads", 1, "--rounds", 1, "--no-compiled"]
    assert cli.parse(["bench", *map(str, told)]) == BenchOptions(("bilateral_propagation",), (1,), 1, False)


def test_the_choices_are_those_of_the_models():
    from pyeqgan.models.eqgan import config as eqgan_config
    from pyeqgan.training.eqgan import losses

    for module, names in ((eqgan_config, ("Fusion", "Equalization", "Detail")), (losses, ("Penalty",))):
        for name in names:
            assert get_args(getattr(pyeqgan.options.train_eqgan, name)) == get_args(getattr(module, name))
    defaults = {field.name: field.default for field in dataclasses.fields(EqGANOptions)}
    for field in dataclasses.fields(eqgan_config.EqGANConfig):
        assert field.name == "num_classes" or defaults[field.name] == field.default
    weights = losses.LossWeights()
    assert (weights.penalty, weights.penalty_every) == (defaults["penalty"], defaults["penalty_every"])
    for name in get_type_hints(losses.LossWeights).keys() - {"penalty", "penalty_every"}:
        assert defaults[name if name.endswith("weight") else f"{name}_weight"] == getattr(weights, name)
