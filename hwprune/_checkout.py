"""Let ``hwprune.export`` be found in a checkout that is not installed, where it lies beside us."""

from pathlib import Path

import hwprune

_ROOT = Path(__file__).parent.parent
if (_ROOT / "pyproject.toml").exists() and (_ROOT / "export").is_dir():
    hwprune.__path__.append(str(_ROOT))
