import functools
import subprocess
import sys

import ecgan_parts
import numpy as np
import pytest
import torch

from pyeqgan.export import export_onnx, export_program, input_names, output_names
from pyeqgan.models import ECGANGenerator, EqGAN, EqGANConfig, EqGANGenerator

CONFIGS = {
    "local": {"image_size": 32, "width": 0.25},
    "shared": {"image_size": 48, "width": 0.125, "equalization": "shared"},
    "mean": {"image_size": 64, "width": 0.125, "fusion": "mean", "detail": "none"},
    "base": {"image_size": 32, "width": 0.125, "equalization": "shared", "detail": "base"},
}
ROWS = [(1, 3), (6, 3), (2, 5)]


def trained(**fields) -> EqGANGenerator:
    """A generator whose norms have seen something, so that each statistic tells."""
    generator = EqGANGenerator(EqGANConfig(3, **fields))
    side = generator.config.image_size
    with torch.no_grad():
        for _ in range(2):
            generator(torch.rand(4, 3, 3, side, side) * 2 - 1)
    return generator.eval()


def arguments(generator, batch, shots, dtype=torch.float32):
    side = generator.config.image_size
    plan = generator.sample_plan(batch, shots)
    images = torch.rand(batch, shots, 3, side, side, dtype=dtype) * 2 - 1
    return plan, (images, plan.weights, plan.base, *plan.positions.values())


def eager(generator, plan, images):
    with torch.no_grad():
        return generator(images, plan=plan).images


def assert_rows_equal(found, expected):
    """To float32's accuracy, but for one row: rounding may move the match of a position whose two best are alike."""
    assert found.shape == expected.shape
    different = (found - expected).abs().amax((1, 2, 3)) > 1e-5
    assert different.sum() <= (1 if len(found) > 1 else 0), (found - expected).abs().amax((1, 2, 3))


def others_slow(quick):
    """Every configuration; all but one take their time when all tests are asked for."""
    return [quick, *(pytest.param(name, marks=pytest.mark.slow) for name in CONFIGS if name != quick)]


@pytest.fixture(scope="module")
def exported():
    """A generator by its name, in float64, in which no two matches are alike, and its program."""

    @functools.cache
    def exported(name):
        generator = trained(**CONFIGS[name]).double()
        return generator, export_program(generator)

    return exported


@pytest.mark.parametrize("name", others_slow("local"))
def test_the_program_is_the_generator_and_of_torch_alone(name, exported):
    generator, program = exported(name)
    targets = {node.target for node in program.graph.nodes if node.op == "call_function"}
    assert {target.namespace for target in targets if hasattr(target, "namespace")} == {"aten"}
    for batch, shots in ROWS:
        plan, given = arguments(generator, batch, shots, torch.float64)
        torch.testing.assert_close(program.module()(*given), eager(generator, plan, given[0]))


@pytest.mark.parametrize("shots", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_few_shots_can_be_fixed_and_exporting_leaves_the_generator_alone(shots):
    generator = trained(**CONFIGS["base"]).double().train()
    before = {name: tensor.clone() for name, tensor in generator.state_dict().items()}
    program = export_program(generator, shots=shots)
    assert generator.training and all(p.requires_grad for p in generator.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in generator.state_dict().items())
    plan, given = arguments(generator, 3, shots, torch.float64)
    torch.testing.assert_close(program.module()(*given), eager(generator.eval(), plan, given[0]))
    with pytest.raises(Exception, match=r"shape|size|Guard"):
        program.module()(*arguments(generator, 3, 3, torch.float64)[1])


def test_a_saved_program_runs_without_pyeqgan(exported, tmp_path):
    generator, program = exported("local")
    torch.export.save(program, tmp_path / "model.pt2")
    plan, given = arguments(generator, 2, 4, torch.float64)
    torch.save(given, tmp_path / "given.pt")
    code = (
        "import sys, torch; sys.modules['pyeqgan'] = None; given = torch.load('given.pt');"
        "torch.save(torch.export.load('model.pt2').module()(*given), 'found.pt')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    torch.testing.assert_close(torch.load(tmp_path / "found.pt"), eager(generator, plan, given[0]))


@pytest.mark.parametrize("name", others_slow("shared"))
def test_onnxruntime_gives_what_the_generator_does(name, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    onnx = pytest.importorskip("onnx")
    generator = trained(**CONFIGS[name])
    export_onnx(generator, tmp_path / "model.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    model = onnx.load(tmp_path / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert {opset.domain for opset in model.opset_import} == {""}
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", options)
    assert [i.name for i in session.get_inputs()] == input_names(generator)
    assert session.get_inputs()[0].shape[:2] == ["batch", "shots"]
    for batch, shots in ROWS[1:]:
        plan, given = arguments(generator, batch, shots)
        feed = dict(zip(input_names(generator), (tensor.numpy() for tensor in given), strict=True))
        (found,) = session.run(["image"], feed)
        assert found.dtype == np.float32
        assert_rows_equal(torch.from_numpy(found), eager(generator, plan, given[0]))


PAINTERS = {"semantic": {}, "instances": {"instance_edges": True, "norm": "instance"}, "image": {"modules": "image"}}


def painter(**fields) -> ECGANGenerator:
    generator = ECGANGenerator(ecgan_parts.config(**fields))
    with torch.no_grad():
        generator(*layouts(generator, 4))
    return generator.eval()


def layouts(generator, batch, dtype=torch.float32):
    given = (ecgan_parts.labels(batch),)
    return (*given, ecgan_parts.outlines(batch).to(dtype)) if generator.config.instance_edges else given


def painted(generator, given):
    with torch.no_grad():
        output = generator(*given)
    return [output.final] if output.edges is None else [output.final, output.edges]


@pytest.mark.parametrize("fields", PAINTERS.values(), ids=PAINTERS)
def test_the_program_of_a_painter_is_the_generator_and_of_torch_alone(fields):
    generator = painter(**fields).double().train()
    before = {name: tensor.clone() for name, tensor in generator.state_dict().items()}
    program = export_program(generator)
    assert generator.training and all(p.requires_grad for p in generator.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in generator.state_dict().items())
    targets = {node.target for node in program.graph.nodes if node.op == "call_function"}
    assert {target.namespace for target in targets if hasattr(target, "namespace")} == {"aten"}
    generator.eval()
    for batch in (1, 3):
        given = layouts(generator, batch, torch.float64)
        found = program.module()(*given)
        assert len(given) == len(input_names(generator))
        found = [found] if isinstance(found, torch.Tensor) else list(found)
        torch.testing.assert_close(found, painted(generator, given))


@pytest.mark.parametrize("fields", [PAINTERS["instances"], pytest.param({}, marks=pytest.mark.slow)], ids=str)
def test_onnxruntime_paints_what_the_generator_does(fields, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    generator = painter(**fields)
    export_onnx(generator, tmp_path / "model.onnx")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", options)
    assert [i.name for i in session.get_inputs()] == input_names(generator)
    assert [o.name for o in session.get_outputs()] == output_names(generator) == ["image", "edges"]
    for batch in (1, 3):
        given = layouts(generator, batch)
        feed = dict(zip(input_names(generator), (tensor.numpy() for tensor in given), strict=True))
        for found, expected in zip(session.run(None, feed), painted(generator, given), strict=True):
            torch.testing.assert_close(torch.from_numpy(found), expected, rtol=0, atol=1e-5)


def test_what_cannot_be_exported_is_said(tmp_path):
    model = EqGAN(EqGANConfig(3, image_size=32, width=0.125))
    with pytest.raises(TypeError, match="expected an EqGANGenerator or an ECGANGenerator, got EqGANDiscriminator"):
        export_program(model.discriminator)
    with pytest.raises(ValueError, match="export: shots: expected an integer >= 1 or None, got 0"):
        export_program(model.generator, shots=0)
    with pytest.raises(ValueError, match="export: shots: expected None for an ECGANGenerator, got 3"):
        export_program(painter(), shots=3)
    with pytest.raises(TypeError, match=r"export_onnx: generator: expected parameters in torch\.float32 alone"):
        export_onnx(model.generator.half(), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())
