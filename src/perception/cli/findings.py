"""What a check of `perception doctor` says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["ok", "note", "missing"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. `mend`: the command that mends it, or what does not work without it."""

    what: str
    verdict: Verdict
    found: str
    mend: str = ""
