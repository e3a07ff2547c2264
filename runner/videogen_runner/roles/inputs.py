"""What preflight found, and the weights that it found it of: encode and generate begin here."""

from videogen_api import keys
from videogen_api.errors import WeightsInvalid
from videogen_api.naming import Env
from videogen_api.plan import Inputs
from videogen_runner.roles.context import RoleContext
from videogen_runner.store.records import get_record
from videogen_runner.weights import Component, Weights, open_weights


def read_inputs(context: RoleContext) -> Inputs:
    """The run's frozen inputs. Raises NotFound where preflight has not run."""
    return get_record(context.store, keys.inputs(context.plan.run), Inputs).record


def planned_weights(context: RoleContext) -> Weights:
    """The plan's weights, or those that the environment has mounted."""
    environment, plan = context.environment, context.plan
    env = {**environment.credentials, Env.SCRATCH: str(environment.scratch)}
    if environment.weights is not None:
        env[Env.WEIGHTS] = environment.weights
    if environment.builtin_weights is not None:
        env[Env.BUILTIN_WEIGHTS] = environment.builtin_weights
    model, storage = plan.model, plan.storage
    return open_weights(model.weights, env, model=model.name, endpoint=storage.endpoint, region=storage.region)


def checked_weights(context: RoleContext, inputs: Inputs, *components: Component) -> Weights:
    """The weights, if these components are those that the run began with.

    Raises WeightsInvalid, naming both digests, where they are not; WeightsMissing and WeightsInvalid as reading does.
    """
    weights = planned_weights(context)
    found, expected = weights.digests().model_dump(), inputs.weights.model_dump()
    for component in components:
        if found[component] != expected[component]:
            raise WeightsInvalid(
                f"the {component}'s weights have digest {found[component]}, the run began with {expected[component]}; "
                "restore them, or put the new ones under another path"
            )
    return weights
