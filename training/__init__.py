"""How the model `shapes` is made: procedural clips with captions, training, and a reader that says what a clip shows.

Run as `python -m training.NAME` from the repository; neither installed nor shipped. Imports nothing of the operator.
"""
