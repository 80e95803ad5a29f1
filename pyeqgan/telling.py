"""How long work tells where it is: functions that the caller gives."""

from __future__ import annotations

from collections.abc import Callable

Report = Callable[[str], None]
"""Called with a line for each thing worth knowing."""

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""
