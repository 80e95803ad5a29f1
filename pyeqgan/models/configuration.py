"""What the configurations of all models share: plain fields, checked, as a dictionary and back."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

_Config = TypeVar("_Config", bound="ModelConfig")


@dataclass(frozen=True)
class ModelConfig:
    """Base of the configurations: frozen dataclasses of numbers and strings that check their fields.

    Attributes:
        num_classes: of whatever the model tells apart, >= 1.
    """

    num_classes: int

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain numbers and strings, for JSON or YAML."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls: type[_Config], fields: Mapping[str, Any]) -> _Config:
        """The inverse of :meth:`to_dict`.

        Raises:
            ValueError: a key is unknown or ``num_classes`` is missing.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        unknown = sorted(map(str, set(fields) - set(known)))
        if unknown:
            raise ValueError(f"{cls.__name__}: expected keys among {', '.join(known)}, got {', '.join(unknown)}")
        if "num_classes" not in fields:
            raise ValueError(f"{cls.__name__}: expected the key num_classes, got none")
        return cls(**fields)

    def _integer(self, name: str) -> int:
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"{self._name}: {name}: expected an integer, got {value!r}")
        if value < 1:
            raise ValueError(f"{self._name}: {name}: expected an integer >= 1, got {value}")
        return value

    def _positive(self, name: str) -> float:
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise TypeError(f"{self._name}: {name}: expected a number, got {value!r}")
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{self._name}: {name}: expected a finite number > 0, got {value}")
        return float(value)

    def _flag(self, name: str) -> None:
        value = getattr(self, name)
        if not isinstance(value, bool):
            raise TypeError(f"{self._name}: {name}: expected True or False, got {value!r}")

    def _choice(self, name: str, choices: tuple[str, ...]) -> None:
        value = getattr(self, name)
        if value not in choices:
            raise ValueError(f"{self._name}: {name}: expected {' or '.join(map(repr, choices))}, got {value!r}")

    @property
    def _name(self) -> str:
        return type(self).__name__


def scaled_channels(full: int, width: float) -> int:
    """``full`` channels scaled by ``width``, rounded to a multiple of 8 (a SIMD vector), at least 8."""
    return max(8, 8 * round(full * width / 8))
