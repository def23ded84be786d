"""The modules of library/ as Python modules, without Ansible around them."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "library"))
