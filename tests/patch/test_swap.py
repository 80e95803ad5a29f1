"""A swapped model stays the model it was: hooks, copies, pickles, later changes, other ways to run it."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from sampling import seed_everything
from styles.blocks import Block
from torch import nn
from torch.nn.utils import parametrizations

from pyeqgan import backends
from pyeqgan.patch import accelerate
from pyeqgan.patch.installing import installed

pytestmark = pytest.mark.usefixtures("one_thread")


def assert_equals_original(net, original, x, **tolerance):
    """Outputs, and the running statistics they leave; spectral norm's vectors are the same before both."""
    original.load_state_dict(net.state_dict())
    torch.testing.assert_close(net(x), original(x), **tolerance)
    for (name, a), b in zip(net.named_buffers(), original.buffers(), strict=True):
        torch.testing.assert_close(a, b, msg=name)


def test_the_kernels_run_and_are_named(net, x, kernels):
    report = accelerate(net)
    net(x)
    assert kernels == ["skip_decoder_block", "activated_conv2d"]
    assert [s.name for s in report.swapped] == ["block.conv", "judge.3"]
    text = str(report)
    assert "block.conv: Upsample → ReflectionPad2d → Conv2d → BatchNorm2d → LeakyReLU  ⇒  skip_decoder_block" in text
    assert not report.left


def test_undo_reverses_exactly(net, x, kernels):
    before = [(type(m), dict(vars(m))) for m in net.modules()]
    report = accelerate(net)
    assert isinstance(net.block, Block)
    report.undo()
    report.undo()
    assert [(type(m), dict(vars(m))) for m in net.modules()] == before
    net(x)
    assert not kernels


def test_a_second_swap_finds_nothing_new(net, x, kernels):
    first, second = accelerate(net), accelerate(net)
    assert len(first.swapped) == 2
    assert not second.swapped
    net(x)
    assert len(kernels) == 2


@pytest.mark.parametrize(
    "register", ["register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook"]
)
@pytest.mark.parametrize("layer", ["up", "pad", "conv", "norm", "activation"])
def test_a_hook_on_an_absorbed_layer_refuses_the_swap(net, x, layer, register, kernels):
    fired = []
    getattr(net.block.get_submodule(layer), register)(lambda *_: fired.append(layer))
    report = accelerate(net.block)
    assert not report.swapped
    assert "has a hook, which would not fire" in report.left[0].reason or layer in report.left[0].reason
    net.block(x.requires_grad_()).sum().backward()
    assert fired
    assert not kernels


@pytest.mark.parametrize(
    "register", ["register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook"]
)
@pytest.mark.parametrize("layer", ["up", "pad", "conv", "norm", "activation"])
def test_a_hook_on_an_absorbed_layer_fires_also_if_it_comes_later(net, x, layer, register, kernels):
    original, fired = copy.deepcopy(net.block), []
    accelerate(net.block)
    handle = getattr(net.block.get_submodule(layer), register)(lambda *_: fired.append(layer))
    net.block(x.requires_grad_()).sum().backward()
    assert fired == [layer]
    assert not kernels
    handle.remove()
    assert_equals_original(net.block, original, x)
    assert kernels


def test_hooks_on_the_container_fire(net, x, kernels):
    fired = []
    net.block.register_forward_hook(lambda *_: fired.append("before"))
    accelerate(net.block)
    net.block.register_forward_hook(lambda *_: fired.append("after"))
    net.block(x)
    assert fired == ["before", "after"]
    assert kernels


def test_hooks_on_opened_modules_fire(x, kernels):
    """A block is opened where its upsampling is outside: a hook on it keeps it closed, also later."""
    blocks = nn.Sequential(nn.Upsample(scale_factor=2), nn.Sequential(*list(Block().children())[1:])).double()
    fired = []
    hooked = copy.deepcopy(blocks)
    hooked[1].register_forward_hook(lambda *_: fired.append("before"))
    report = accelerate(hooked)
    assert not report.swapped
    assert "it has a hook" in report.left[0].reason
    assert len(accelerate(blocks).swapped) == 1
    blocks[1].register_forward_hook(lambda *_: fired.append("later"))
    hooked(x), blocks(x)
    assert fired == ["before", "later"]
    assert not kernels


def test_weight_hooks_of_opened_modules_run(x):
    """Spectral norm of a module that has a weight of its own, used in its forward."""

    class Scaled(Block):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.eye(4))

        def forward(self, x):
            return self.conv(self.pad(x)) * self.weight.sum()

    net = nn.Sequential(nn.Upsample(scale_factor=2), nn.utils.spectral_norm(Scaled())).double()
    original = copy.deepcopy(net)
    accelerate(net)
    assert_equals_original(net, original, x)


def test_global_hooks_fire(net, x, kernels):
    accelerate(net)
    fired = []
    handle = nn.modules.module.register_module_forward_hook(lambda module, *_: fired.append(type(module)))
    try:
        net(x)
    finally:
        handle.remove()
    assert nn.Conv2d in [t.__mro__[1] for t in fired] + fired and nn.Upsample in fired
    assert not kernels


CHANGES = {
    "an attribute its forward reads": lambda b: setattr(b, "doubled", True),
    "another slope": lambda b: setattr(b.activation, "negative_slope", 0.4),
    "another stride": lambda b: setattr(b.conv, "stride", (2, 2)),
    "another norm": lambda b: setattr(b, "norm", nn.GroupNorm(2, 4).double()),
    "another convolution": lambda b: setattr(b, "conv", nn.Conv2d(3, 4, 3).double()),
    "another padding": lambda b: setattr(b, "pad", nn.ZeroPad2d(1)),
    "no activation": lambda b: setattr(b, "activation", nn.Identity()),
    "spectral norm": lambda b: parametrizations.spectral_norm(b.conv),
    "spectral norm by hooks": lambda b: nn.utils.spectral_norm(b.conv),
    "statistics switched off": lambda b: setattr(b.norm, "track_running_stats", False),
    "norm in evaluation": lambda b: b.norm.eval(),
    "frozen": lambda b: b.requires_grad_(False),
    "a forward on the instance": lambda b: setattr(
        b.conv, "forward", lambda x: x.mean(1, keepdim=True).expand(-1, 4, -1, -1)
    ),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_changes_after_the_swap_are_followed(x, change):
    seed_everything()
    block = Block().double()
    original = copy.deepcopy(block)
    accelerate(block)
    block(x)
    change(block)
    change(original)
    assert_equals_original(block, original, x)


def test_layers_that_are_none_are_followed(x, kernels):
    class Parts(Block):
        def forward(self, x):
            x = self.conv(self.pad(self.up(x)))
            if self.norm is not None:
                x = self.norm(x)
            return self.activation(x) if self.activation is not None else x

    block = Parts().double()
    block.activation = None
    original = copy.deepcopy(block)
    assert len(accelerate(block).swapped) == 1
    assert_equals_original(block, original, x)
    assert kernels
    block.norm = original.norm = None
    torch.testing.assert_close(block(x), original(x))


def test_none_and_defaults_take_the_authors_way(x, kernels):
    class Optional(Block):
        def forward(self, x, skip=None):
            x = self.activation(self.norm(self.conv(self.pad(self.up(x)))))
            return x if skip is None else x + skip

    block = Optional().double()
    original = copy.deepcopy(block)
    assert len(accelerate(block).swapped) == 1
    skip = torch.randn(2, 4, 8, 10, dtype=torch.float64)
    for arguments, options, ran in (((x,), {}, 0), ((x, None), {}, 0), ((x, skip), {}, 1), ((x,), {"skip": skip}, 1)):
        kernels.clear()
        torch.testing.assert_close(block(*arguments, **options), original(*arguments, **options))
        assert len(kernels) == ran


def test_deep_copies_are_accelerated(net, x, kernels):
    original = copy.deepcopy(net)
    accelerate(net)
    for twin in (copy.deepcopy(net), copy.deepcopy(copy.deepcopy(net))):
        kernels.clear()
        assert_equals_original(twin, original, x)
        assert kernels == ["skip_decoder_block", "activated_conv2d"]
        assert not {id(p) for p in twin.parameters()} & {id(p) for p in net.parameters()}


def test_pickles_are_accelerated(x, kernels):
    seed_everything()
    block = Block().double()
    original = copy.deepcopy(block)
    accelerate(block)
    for loaded in (pickle.loads(pickle.dumps(block)), _saved(block)):
        kernels.clear()
        assert type(loaded).__name__ == "Block" and isinstance(loaded, Block) and installed(loaded)
        assert_equals_original(loaded, original, x)
        assert kernels


def _saved(module):
    buffer = io.BytesIO()
    torch.save(module, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


def test_replicas_of_data_parallelism_run_on_their_own_tensors(x):
    block = Block().double()
    accelerate(block)
    replica = block._replicate_for_data_parallel()
    replica._modules = dict(block._modules)
    replica.conv = copy.deepcopy(block.conv)
    with torch.no_grad():
        replica.conv.weight.mul_(3)
    original = copy.deepcopy(block)
    original.conv = replica.conv
    torch.testing.assert_close(replica(x), original(x))


@pytest.mark.parametrize("training", [True, False])
def test_autocast(net, x, training, kernels):
    net, x = net.float().train(training), x.float()
    original = copy.deepcopy(net)
    accelerate(net)
    with torch.autocast("cpu", torch.bfloat16):
        ours = net(x)
    assert len(kernels) == 2
    with torch.autocast("cpu", torch.bfloat16):
        theirs = original(x)
    assert ours.dtype == theirs.dtype == torch.bfloat16
    truth = copy.deepcopy(original).double()
    expected = truth(x.double())
    ours, theirs, expected = ours.detach(), theirs.detach(), expected.detach()
    assert float((ours.double() - expected).norm()) <= 2 * float((theirs.double() - expected).norm()) + 4e-3 * float(
        expected.norm()
    )


def test_channels_last(net, x, kernels):
    net = net.to(memory_format=torch.channels_last)
    original = copy.deepcopy(net)
    accelerate(net)
    x = x.contiguous(memory_format=torch.channels_last)
    assert_equals_original(net, original, x)
    assert net.block(x).is_contiguous(memory_format=torch.channels_last)
    assert kernels


def test_inputs_a_kernel_does_not_take_go_layer_by_layer(kernels):
    """No batch dimension; and tangents of forward-mode differentiation."""
    convs = nn.Sequential(nn.Upsample(scale_factor=2), nn.ReflectionPad2d(1), nn.Conv2d(3, 4, 3)).double()
    act = nn.Sequential(nn.LeakyReLU(0.2), nn.ReflectionPad2d(1), nn.Conv2d(32, 32, 3)).double()
    original = copy.deepcopy(act)
    accelerate(act), accelerate(convs)
    x = torch.randn(32, 4, 5, dtype=torch.float64)
    torch.testing.assert_close(act(x), original(x))
    x, tangent = torch.randn(2, 1, 32, 4, 5, dtype=torch.float64)
    torch.testing.assert_close(torch.func.jvp(act, (x,), (tangent,)), torch.func.jvp(original, (x,), (tangent,)))
    assert not kernels


def test_without_a_kernel_the_layers_run(net, x, kernels):
    original = copy.deepcopy(net)
    accelerate(net)
    with backends.force("reference"):
        assert_equals_original(net, original, x)
    assert not kernels


def test_compiled_without_a_graph_break(net, x):
    net = net.eval()
    original = copy.deepcopy(net)
    accelerate(net)
    with torch.no_grad():
        compiled = torch.compile(net, backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(x), original(x))


def test_distributed_data_parallel(net, x, tmp_path):
    original = copy.deepcopy(net)
    accelerate(net)
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        nn.parallel.DistributedDataParallel(net)(x).square().sum().backward()
    finally:
        torch.distributed.destroy_process_group()
    original(x).square().sum().backward()
    for (name, a), b in zip(net.named_parameters(), original.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-7, atol=1e-7, msg=name)


def test_what_is_inside_a_closed_module_is_still_found(x, kernels):
    class Closed(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = Block()

        def forward(self, x):
            print("closed")
            return self.inner(x)

    report = accelerate(Closed().double())
    assert [s.name for s in report.swapped] == ["inner.conv"]
    assert [(entry.name, entry.operation) for entry in report.left] == [("", None)]
    assert "the model: not looked into: its forward uses print" in str(report)


def test_a_layer_of_two_names_is_swapped_under_one():
    shared = nn.Conv2d(3, 3, 3)
    parts = [nn.Sequential(nn.Upsample(scale_factor=2), nn.ReflectionPad2d(1), shared) for _ in range(2)]
    report = accelerate(nn.ModuleList(parts))
    assert [s.name for s in report.swapped] == ["0.2", "1.2"]


def test_a_compiled_model_is_left_and_said():
    model = torch.fx.symbolic_trace(nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(3, 3, 3)))
    report = accelerate(model)
    assert not report.swapped
    assert "compiled already" in str(report)
