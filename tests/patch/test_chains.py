"""Every chain that is a kernel's is swapped and computes the same; everything near it is left, with the reason."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from sampling import seed_everything
from styles.training import assert_trains_alike, gradient_penalty
from torch import nn
from torch.nn.utils import parametrizations, prune

from pyeqgan.patch import accelerate

pytestmark = pytest.mark.usefixtures("one_thread")


class Written(nn.Module):
    """A module around a function of its layers and its input."""

    def __init__(self, **layers):
        super().__init__()
        for name, layer in layers.items():
            setattr(self, name, layer)


def decoder(up=None, pad=None, conv=None, norm=None, activation=None, channels=(3, 4)):
    return nn.Sequential(
        up or nn.Upsample(scale_factor=2),
        pad or nn.ReflectionPad2d(1),
        conv or nn.Conv2d(*channels, 3),
        norm or nn.BatchNorm2d(channels[1]),
        activation or nn.LeakyReLU(0.2),
    )


def activated(activation=None, pad=None, conv=None):
    return nn.Sequential(activation or nn.LeakyReLU(0.2), pad or nn.ReflectionPad2d(1), conv or nn.Conv2d(32, 33, 3))


DECODERS = {
    "batch norm": lambda: decoder(),
    "replicate": lambda: decoder(pad=nn.ReplicationPad2d(1)),
    "own padding": lambda: decoder(pad=nn.Identity(), conv=nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect")),
    "same padding": lambda: decoder(
        pad=nn.ReflectionPad2d(0), conv=nn.Conv2d(3, 4, 3, padding="same", padding_mode="reflect", bias=False)
    ),
    "nearest-exact": lambda: decoder(up=nn.Upsample(scale_factor=(2, 2), mode="nearest-exact")),
    "UpsamplingNearest2d": lambda: decoder(up=nn.UpsamplingNearest2d(scale_factor=2)),
    "instance norm": lambda: decoder(norm=nn.InstanceNorm2d(4, affine=True)),
    "plain instance norm": lambda: decoder(norm=nn.InstanceNorm2d(4), activation=nn.Tanh()),
    "another slope": lambda: decoder(activation=nn.LeakyReLU(0.01, inplace=True)),
    "relu": lambda: decoder(activation=nn.ReLU(inplace=True)),
    "no norm": lambda: nn.Sequential(nn.Upsample(scale_factor=2), nn.ReflectionPad2d(1), nn.Conv2d(3, 4, 3), nn.Tanh()),
    "no activation": lambda: nn.Sequential(*decoder()[:4]),
    "another norm": lambda: decoder(norm=nn.GroupNorm(2, 4)),
    "eps and momentum": lambda: decoder(norm=nn.BatchNorm2d(4, eps=0.1, momentum=0.3)),
    "no running statistics": lambda: decoder(norm=nn.BatchNorm2d(4, track_running_stats=False)),
    "no affine": lambda: decoder(norm=nn.BatchNorm2d(4, affine=False)),
    "spectral norm": lambda: decoder(conv=nn.utils.spectral_norm(nn.Conv2d(3, 4, 3))),
    "spectral parametrization": lambda: decoder(conv=parametrizations.spectral_norm(nn.Conv2d(3, 4, 3))),
    "nested": lambda: nn.Sequential(nn.Sequential(nn.Upsample(scale_factor=2)), nn.Sequential(*list(decoder())[1:])),
}


@pytest.mark.parametrize("make", DECODERS.values(), ids=DECODERS.keys())
def test_decoder_chains_train_alike(make):
    seed_everything()
    model = make()
    # The identity stands between, in one case: chains are of neighbours only.
    model = nn.Sequential(*(m for m in model if not isinstance(m, nn.Identity)))
    report = assert_trains_alike(model, torch.randn(2, 3, 3, 5), swaps=1)
    assert report.swapped[0].operation == "skip_decoder_block"


@pytest.mark.parametrize("name", ["batch norm", "instance norm", "no norm"])
def test_decoder_chains_train_alike_under_a_gradient_penalty(name):
    seed_everything()
    assert_trains_alike(DECODERS[name](), torch.randn(1, 3, 3, 4) / 4, loss=gradient_penalty, steps=2, swaps=1)


class _Functions(Written):
    def forward(self, x):
        x = F.interpolate(x, scale_factor=2)
        x = self.conv(F.pad(x, (1, 1, 1, 1), mode="reflect"))
        return F.leaky_relu(self.norm(x), 0.1)


class _FineSkip(Written):
    def forward(self, x):
        first = self.first(x)
        return self.activation(self.norm(self.conv(self.pad(torch.cat([self.up(first), self.fine(x)], 1)))))


class _CoarseSkip(Written):
    def forward(self, x):
        joined = torch.cat((self.first(x), x), dim=1)
        return self.activation(self.norm(self.conv(self.pad(self.up(joined)))))


class _SharedUpsampling(Written):
    """One module upsamples twice, and its second result goes two ways."""

    def forward(self, x):
        y = self.conv(self.pad(self.up(x)))
        z = self.up(y)
        return self.conv(self.pad(z)) + z


@pytest.mark.parametrize(
    ("model", "swaps"),
    [
        (lambda: _Functions(conv=nn.Conv2d(3, 4, 3), norm=nn.BatchNorm2d(4)), 1),
        (
            lambda: _FineSkip(
                first=nn.Conv2d(3, 2, 1), fine=nn.ConvTranspose2d(3, 3, 2, 2), **dict(_parts(5, 4).items())
            ),
            1,
        ),
        (lambda: _CoarseSkip(first=nn.Conv2d(3, 2, 1), **_parts(5, 4)), 1),
        (lambda: _SharedUpsampling(**_parts(3, 3)), 2),
    ],
    ids=["functions", "fine skip", "coarse skip", "shared"],
)
def test_hand_written_decoders_train_alike(model, swaps):
    seed_everything()
    assert_trains_alike(model(), torch.randn(2, 3, 3, 4), swaps=swaps)


def _parts(i, o):
    names = ("up", "pad", "conv", "norm", "activation")
    return dict(zip(names, decoder(channels=(i, o)), strict=True))


ACTIVATED = {
    "leaky relu": lambda: activated(),
    "relu": lambda: activated(nn.ReLU(), nn.ReplicationPad2d(1)),
    "tanh": lambda: activated(nn.Tanh(), nn.ZeroPad2d(1)),
    "own zeros": lambda: nn.Sequential(nn.LeakyReLU(0.3), nn.Conv2d(32, 32, 3, padding=1)),
    "wide padding": lambda: activated(pad=nn.ReflectionPad2d(2)),
    "no padding": lambda: nn.Sequential(nn.LeakyReLU(0.3), nn.Conv2d(32, 32, 3, bias=False)),
    "spectral norm": lambda: activated(conv=nn.utils.spectral_norm(nn.Conv2d(32, 32, 3))),
    "spectral parametrization": lambda: activated(conv=parametrizations.spectral_norm(nn.Conv2d(32, 32, 3))),
}


@pytest.mark.parametrize("make", ACTIVATED.values(), ids=ACTIVATED.keys())
def test_activated_convolutions_train_alike_under_a_gradient_penalty(make):
    seed_everything()
    report = assert_trains_alike(make(), torch.randn(1, 32, 4, 5) / 4, loss=gradient_penalty, steps=2, swaps=1)
    assert report.swapped[0].operation == "activated_conv2d"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("make", [*DECODERS.values(), *ACTIVATED.values()], ids=[*DECODERS, *ACTIVATED])
def test_autocast_gives_the_same_dtype_and_half_precision(make, dtype):
    seed_everything()
    model = make()
    model = nn.Sequential(*(m for m in model if not isinstance(m, nn.Identity)))
    twin = copy.deepcopy(model)
    assert accelerate(twin).swapped
    x = torch.randn(2, 3 if make in DECODERS.values() else 32, 4, 5)
    with torch.autocast("cpu", dtype):
        ours, theirs = twin(x), model(x)
    assert ours.dtype == theirs.dtype
    torch.testing.assert_close(ours, theirs, rtol=0.05, atol=0.05)


NEAR = {
    "kernel 5": (decoder(pad=nn.ReflectionPad2d(2), conv=nn.Conv2d(3, 4, 5)), "kernel size (5, 5)"),
    "zero padding": (decoder(pad=nn.ZeroPad2d(1)), "padding mode 'zeros'"),
    "zero padding of the convolution's own": (
        nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)),
        "padding mode 'zeros'",
    ),
    "circular": (decoder(pad=nn.CircularPad2d(1)), "padding mode 'circular'"),
    "constant": (decoder(pad=nn.ConstantPad2d(1, 0.5)), "padding with 0.5"),
    "uneven": (decoder(pad=nn.ReflectionPad2d((1, 1, 1, 0))), "pads every side alike"),
    "cropped": (activated(pad=nn.ReflectionPad2d(-1)), "pads every side alike"),
    "weight hook of a norm": (decoder(norm=prune.identity(nn.BatchNorm2d(4), "weight")), "has a hook for its weight"),
    "none": (nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(3, 4, 3)), "padding of 0 pixels"),
    "twice": (decoder(conv=nn.Conv2d(3, 4, 3, padding=1)), "padded twice"),
    "dilation": (decoder(pad=nn.ReflectionPad2d(2), conv=nn.Conv2d(3, 4, 3, dilation=2)), "dilation (2, 2)"),
    "groups": (decoder(conv=nn.Conv2d(4, 4, 3, groups=2)), "groups 2"),
    "stride": (decoder(conv=nn.Conv2d(3, 4, 3, stride=2)), "stride (2, 2)"),
    "bilinear": (decoder(up=nn.Upsample(scale_factor=2, mode="bilinear")), "mode 'bilinear'"),
    "align corners": (
        decoder(up=nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)),
        "mode 'bilinear'",
    ),
    "by three": (decoder(up=nn.Upsample(scale_factor=3)), "by 3.0"),
    "to a size": (decoder(up=nn.Upsample(size=(8, 8))), "to size (8, 8)"),
    "running instance norm": (
        decoder(norm=nn.InstanceNorm2d(4, track_running_stats=True)),
        "instance norm with running statistics",
    ),
    "cumulative average": (decoder(norm=nn.BatchNorm2d(4, momentum=None)), "momentum None"),
    "negative slope": (decoder(activation=nn.LeakyReLU(-0.2)), "negative slope -0.2"),
    "no convolution": (nn.Sequential(nn.Upsample(scale_factor=2), nn.AvgPool2d(2), nn.Conv2d(3, 4, 3)), "AvgPool2d"),
    "activated 1×1": (nn.Sequential(nn.ReLU(), nn.Conv2d(32, 32, 1)), "kernel size (1, 1)"),
    "activated stride": (activated(conv=nn.Conv2d(32, 32, 3, stride=2)), "stride (2, 2)"),
    "activated dilation": (activated(conv=nn.Conv2d(32, 32, 3, dilation=2)), "dilation (2, 2)"),
    "activated groups": (activated(conv=nn.Conv2d(32, 32, 3, groups=4)), "groups 4"),
    "in place": (activated(nn.LeakyReLU(0.2, inplace=True)), "works in place"),
    "few channels": (activated(conv=nn.Conv2d(16, 64, 3)), "16 to 64 channels"),
    "activated circular": (activated(pad=nn.CircularPad2d(1)), "circular padding"),
    "circular of its own": (
        nn.Sequential(nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1, padding_mode="circular")),
        "circular padding",
    ),
}


@pytest.mark.parametrize(("model", "reason"), NEAR.values(), ids=NEAR.keys())
def test_near_misses_are_left_with_the_reason(model, reason):
    report = accelerate(model)
    assert not report.swapped, str(report)
    assert any(reason in left.reason for left in report.left), str(report)


class _SkipFirst(Written):
    def forward(self, x):
        return self.conv(self.pad(torch.cat([self.fine(x), self.up(x)], 1)))


class _AnotherUser(Written):
    """What one of the inner layers computes is used elsewhere, too."""

    def forward(self, x):
        padded = self.pad(self.up(x))
        return self.conv(padded) + padded.mean()


class _ActivationTwice(Written):
    def forward(self, x):
        y = self.activation(x)
        return self.conv(self.pad(y)) + y


class _InPlaceBetween(Written):
    def forward(self, x):
        y = self.first(x)
        up = self.up(y)
        other = y.mul_(2)
        return self.conv(self.pad(up)).mean() + other.mean()


class _OpaqueBetween(Written):
    """What stands between its layers cannot be looked into, or writes: also where another chain is found."""

    def forward(self, x):
        y = self.first(x)
        up = self.up(y)
        other = self.opaque(y)
        return self.activation(self.conv(self.pad(up))), other, self.tail(self.up(other))


class _Opaque(nn.Module):
    def forward(self, x):
        print(end="")
        return x.mul_(2)


class _InPlaceAfter(Written):
    def forward(self, x):
        return self.conv(self.pad(self.up(x))).mul_(2)


class _Replicated(Written):
    def forward(self, x):
        return self.conv(self.pad(torch.cat([self.up(x), self.fine(x)], 1)))


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (_SkipFirst(fine=nn.ConvTranspose2d(3, 2, 2, 2), **_parts(5, 4)), "the skip connection comes first"),
        (_AnotherUser(**_parts(3, 3)), "used elsewhere too"),
        (_ActivationTwice(activation=nn.ReLU(), pad=nn.ReflectionPad2d(1), conv=nn.Conv2d(32, 32, 3)), "elsewhere"),
        (_InPlaceBetween(first=nn.Conv2d(3, 3, 1), **_parts(3, 3)), "may work in place between"),
        (_InPlaceAfter(**_parts(3, 3)), "works in place on what the kernel keeps"),
        (
            _Replicated(fine=nn.ConvTranspose2d(3, 2, 2, 2), **{**_parts(5, 4), "pad": nn.ReplicationPad2d(1)}),
            "replicate padding of a skip connection",
        ),
    ],
    ids=["skip first", "another user", "activation twice", "in place between", "in place after", "replicated skip"],
)
def test_data_flow_that_is_not_a_chains_is_left(model, reason):
    report = accelerate(model)
    assert not report.swapped, str(report)
    assert any(reason in left.reason for left in report.left), str(report)


@pytest.mark.parametrize("opaque", [_Opaque(), nn.Sequential(nn.Sequential(nn.LeakyReLU(0.5, inplace=True)))])
def test_what_may_write_between_layers_keeps_them_apart(opaque):
    """One chain in a container is one; the other has a writer in it, which stays closed when the first is swapped."""
    seed_everything()
    tail = nn.Sequential(nn.ReflectionPad2d(1), nn.Conv2d(3, 3, 3))
    model = _OpaqueBetween(first=nn.Conv2d(3, 3, 1), opaque=opaque, tail=tail, **_parts(3, 3))
    twin = copy.deepcopy(model)
    report = accelerate(twin)
    assert [s.name for s in report.swapped] == ["tail.1"], str(report)
    x = torch.randn(2, 3, 4, 4)
    for a, b in zip(twin(x), model(x), strict=True):
        torch.testing.assert_close(a, b)


def test_subclasses_of_layers_may_compute_anything():
    class Odd(nn.Conv2d):
        def forward(self, x):
            return 2 * super().forward(x)

    assert not accelerate(decoder(conv=Odd(3, 4, 3))).swapped


def test_a_norm_of_several_processes_stays_outside_the_chain():
    report = accelerate(decoder(norm=nn.SyncBatchNorm(4)))
    assert report.swapped[0].layers == ("Upsample", "ReflectionPad2d", "Conv2d")
