"""Where the package's own launch files, configuration and profiles lie: in a source checkout, under colcon or in a plain pip environment."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from perception.core.errors import InputError


def share_dir() -> Path:
    """The folder that holds `package.xml`, `launch/` and `config/`."""
    checkout = Path(__file__).resolve().parents[3]
    prefixes = [*os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep), sys.prefix]
    candidates = [checkout, *(Path(prefix) / "share" / "perception" for prefix in prefixes if prefix)]
    for candidate in candidates:
        if (candidate / "package.xml").is_file() and (candidate / "config").is_dir():
            return candidate
    raise InputError(
        f"the share folder of perception was not found; looked in {', '.join(map(str, candidates))}: install the package with pip or colcon"
    )
