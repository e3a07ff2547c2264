"""Set before any test imports torch."""

import os

# Fixtures were recorded in numbers that this mode gives on every x86-64 processor; tests/parity/check.py says more.
os.environ.setdefault("MKL_CBWR", "COMPATIBLE")
