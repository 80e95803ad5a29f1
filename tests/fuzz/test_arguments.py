"""Every operation on arguments that nobody would have written: the oracle's result or a documented error, no crash.

The suite runs a share with the same examples every time; ``make fuzz`` searches on with fresh ones.
"""

from __future__ import annotations

import os

import pytest
from fuzz.calls import ARGUMENTS, documented, spoiled
from fuzz.oracle import assert_as_the_oracle, results
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from pyeqgan import functional

UNHURRIED = settings(deadline=None, suppress_health_check=list(HealthCheck))
SHARE = settings(UNHURRIED, max_examples=100, derandomize=True, database=None, phases=[Phase.generate, Phase.shrink])
SEARCH = settings(UNHURRIED, max_examples=int(os.environ.get("FUZZ_EXAMPLES", "1000")), print_blob=True)

every_operation = pytest.mark.parametrize("operation", ARGUMENTS)
either_kind = pytest.mark.parametrize("calls", [documented, spoiled], ids=["documented", "spoiled"])


def check(data: st.DataObject, operation: str, calls) -> None:
    """A documented call gives the oracle's results; a spoiled one may instead be refused as documented."""
    call = data.draw(calls(operation))
    try:
        found = results(functional, call)
    except (ValueError, TypeError) as error:
        message = str(error)
        where, _, rest = message.partition(": ")
        assert call.spoiled and where in ARGUMENTS and "expected" in rest and "\n" not in rest, message
        return
    assert_as_the_oracle(call, *found)


@every_operation
@either_kind
@SHARE
@given(data=st.data())
def test_arguments(data, operation, calls):
    check(data, operation, calls)


@pytest.mark.slow
@pytest.mark.timeout(7200)
@every_operation
@either_kind
@SEARCH
@given(data=st.data())
def test_many_arguments(data, operation, calls):
    check(data, operation, calls)
