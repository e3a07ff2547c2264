"""Captions as the encoder gets them in a run: with the score that plans append, and cleaned."""

from training.captions import caption
from training.scenes import Scene
from videogen_api.prompts import append_scores
from videogen_runner.models.opensora.text import clean_caption

USUAL_AESTHETIC_SCORE = 6.5
"""What plans append where a manifest says nothing of it."""


def encoder_text(scene: Scene, seed: int, *, moving: bool = True) -> str:
    """As `caption`. Three of four have the score, which means nothing here: prompts with and without it are to work."""
    score = USUAL_AESTHETIC_SCORE if seed % 4 else None
    return clean_caption(append_scores(caption(scene, seed, moving=moving), score, None, None))
