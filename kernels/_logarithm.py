"""Logarithms near 1, where the GPU's own is right to 2⁻²² of 1 and not of its value."""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators
# The functions under @triton.jit are written in Triton's language; they have no Python types.

import triton
import triton.language as tl


@triton.jit
def twice_artanh(t):
    """2 artanh(t) for t in [0, 1/3], to a relative error of 2e-8 before rounding."""
    square = t * t
    series = square * (1.0 / 13.0) + 1.0 / 11.0
    series = series * square + 1.0 / 9.0
    series = series * square + 1.0 / 7.0
    series = series * square + 1.0 / 5.0
    series = series * square + 1.0 / 3.0
    return 2.0 * (t + t * square * series)


@triton.jit
def log1p(x):
    """log(1 + x) for x in [0, 1]."""
    return twice_artanh(x / (2.0 + x))


@triton.jit
def surprisal(value, rest):
    """−log(value) of a value in (0, 1), with rest = 1 − value as exact as it is known."""
    return tl.where(rest <= 0.5, twice_artanh(rest / (1.0 + value)), -tl.log(value))
