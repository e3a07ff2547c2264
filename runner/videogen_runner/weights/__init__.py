"""Weights: where they are, whether they are whole, what they are (digests), and getting them into modules.

What preflight needs (`components`, `tensor_files`, `digests`, `location`, re-exported here) imports neither torch nor
numpy nor transformers. The rest (`loading`, `conversion`, `inspection`, `random_weights`) is for the GPU image.
"""

from videogen_runner.weights.components import Component
from videogen_runner.weights.location import Weights, open_weights

__all__ = ["Component", "Weights", "open_weights"]
