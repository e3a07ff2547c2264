from training.captions import caption
from training.scenes import training_scene
from training.texts import encoder_text

from videogen_api.resource import parse_resource
from videogen_operator.core.defaults import Defaults
from videogen_operator.core.planner import make_plan
from videogen_runner.models.opensora.text import clean_caption


def test_three_of_four_texts_are_what_a_plan_makes_of_a_caption_and_the_others_are_bare() -> None:
    scene = training_scene(1)
    for seed in range(8):
        said = caption(scene, seed)
        manifest = {
            "apiVersion": "videogen.dev/v1alpha1",
            "kind": "VideoGeneration",
            "metadata": {"name": "shapes"},
            "spec": {
                "prompts": [{"text": said}],
                "model": {"name": "shapes", "weights": "/weights"},
                "storage": {"url": "/store"},
                "runners": [{"name": "cpu", "gpu": {"count": 0}}],
            },
        }
        [planned] = make_plan(parse_resource(manifest), Defaults()).texts
        assert encoder_text(scene, seed) == clean_caption(planned if seed % 4 else said)
