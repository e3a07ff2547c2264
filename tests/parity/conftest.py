"""Lets the parity tests and `python tests/parity/check.py` import the same sibling modules by the same names."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
