"""What a graph cannot hold is left alone, with the reason, and nothing of it is changed by looking."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from sampling import seed_everything
from styles.blocks import Block

from pyeqgan.patch import accelerate
from pyeqgan.patch.installing import installed

pytestmark = pytest.mark.usefixtures("one_thread")

FLAG = True


class AssignsAttribute(Block):
    def forward(self, x):
        self.last = x
        return self.conv(self.pad(self.up(x)))


class AppendsToList(Block):
    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, x):
        self.seen.append(1)
        return self.conv(self.pad(self.up(x)))


class ReadsGlobal(Block):
    def forward(self, x):
        return self.conv(self.pad(self.up(x))) if FLAG else x


class ReadsTraining(Block):
    def forward(self, x):
        x = self.conv(self.pad(self.up(x)))
        return F.dropout(x, 0.5, self.training)


class NoGradient(Block):
    def forward(self, x):
        with torch.no_grad():
            return self.conv(self.pad(self.up(x)))


class Decorated(Block):
    @torch.no_grad()
    def forward(self, x):
        return self.conv(self.pad(self.up(x)))


class InPlace(Block):
    def forward(self, x):
        y = self.conv(self.pad(self.up(x)))
        y += 1
        return y


class DependsOnInput(Block):
    def forward(self, x):
        return self.conv(self.pad(self.up(x))) if x.sum() > 0 else self.up(x).repeat(1, 2, 1, 1)[:, :4]


class DependsOnType(Block):
    def forward(self, x):
        return self.conv(self.pad(self.up(x))) if isinstance(x, torch.Tensor) else x


class DrawsNumbers(Block):
    def forward(self, x):
        return self.conv(self.pad(self.up(x))) * torch.rand(1, dtype=torch.float64)


class MakesTensor(Block):
    def forward(self, x):
        return self.conv(self.pad(self.up(x))) * torch.tensor([2.0], dtype=torch.float64)


class Catches(Block):
    def forward(self, x):
        try:
            return self.conv(self.pad(self.up(x)))
        except RuntimeError:
            return x


class HelperAssigns(Block):
    def forward(self, x):
        return self.helper(x)

    def helper(self, x):
        self.last = x
        return self.conv(self.pad(self.up(x)))


class ReadsProperty(Block):
    @property
    def scale(self):
        return 2.0

    def forward(self, x):
        return self.conv(self.pad(self.up(x))) * self.scale


class Variadic(Block):
    def forward(self, *inputs):
        return self.conv(self.pad(self.up(inputs[0])))


class GradMode(Block):
    def forward(self, x):
        return self.conv(self.pad(self.up(x))) * (2 if torch.is_grad_enabled() else 1)


class ComparesResult(Block):
    def forward(self, x):
        y = self.conv(self.pad(self.up(x)))
        return x if y is None else y


class ComparesInputs(Block):
    def forward(self, x, skip):
        return x if x is skip else self.conv(self.pad(self.up(x)))


class ComparesAssigned(Block):
    def forward(self, x, skip):
        skip = skip.grad
        return x if skip is None else self.conv(self.pad(self.up(x)))


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (ComparesResult, "tests something for None"),
        (ComparesInputs, "compares with 'is'"),
        (ComparesAssigned, "tests something for None"),
        (AssignsAttribute, "assigns last"),
        (AppendsToList, "reads seen, a list"),
        (ReadsGlobal, "uses FLAG"),
        (ReadsTraining, "asks for training"),
        (NoGradient, "with statement"),
        (Decorated, "from around it"),
        (InPlace, "changes a value in place"),
        (DependsOnInput, "cannot be traced"),
        (DependsOnType, "uses isinstance"),
        (DrawsNumbers, "random numbers"),
        (MakesTensor, "assigns attributes"),
        (Catches, "catches exceptions"),
        (HelperAssigns, "its helper assigns last"),
        (ReadsProperty, "reads scale, a property"),
        (Variadic, "*args"),
        (GradMode, "is_grad_enabled"),
    ],
    ids=lambda v: getattr(v, "__name__", None),
)
def test_what_a_graph_cannot_hold_is_left_alone(kind, reason, x):
    seed_everything()
    block = kind().double()
    before = [dict(vars(m)) for m in block.modules()]
    report = accelerate(block)
    assert not report.swapped, str(report)
    assert reason in report.left[0].reason
    assert [dict(vars(m)) for m in block.modules()] == before
    assert not installed(block)


class BaseAssigns(AssignsAttribute):
    def forward(self, x):
        return super().forward(x)


class BaseDecorated(Decorated):
    def forward(self, x):
        return super().forward(x)


@pytest.mark.parametrize(("kind", "reason"), [(BaseAssigns, "assigns last"), (BaseDecorated, "from around it")])
def test_the_forward_of_a_base_class_is_read_too(kind, reason):
    report = accelerate(kind())
    assert not report.swapped
    assert reason in report.left[0].reason
