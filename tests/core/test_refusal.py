"""Resources that cannot be worked on, and how they come back."""

from typing import Any

from tests.builders import (
    NOW,
    after,
    build_group,
    build_plan,
    build_resource,
    build_status,
    collect_report,
    encode_report,
    generate_report,
    preflight_report,
)

from videogen_api.naming import Stage
from videogen_api.resource import VideoGeneration
from videogen_api.status import Attempts, ConditionStatus, ConditionType, Phase, VideoGenerationStatus
from videogen_operator.core.observed import Observed
from videogen_operator.core.reconcile import is_new, reconcile, settle
from videogen_operator.core.refusal import block, refuse

PLAN = build_plan()
ALL = Attempts(preflight=1, encode=1, generate={"local": 1}, collect=1)
GROUPS = (
    build_group(PLAN, Stage.PREFLIGHT, 1, preflight_report()),
    build_group(PLAN, Stage.ENCODE, 1, encode_report()),
    build_group(PLAN, Stage.GENERATE, 1, generate_report(), generate_report(), pool="local"),
    build_group(PLAN, Stage.COLLECT, 1, collect_report()),
)
BAD = "spec.model.name: no model 'sora'; want open-sora-v1.2"
QUOTA = "configmaps is forbidden: exceeded quota: objects"


def resource_with(status: VideoGenerationStatus, *, generation: int = 1, **spec: Any) -> VideoGeneration:
    resource = build_resource(**spec)
    metadata = resource.metadata.model_copy(update={"generation": generation})
    return resource.model_copy(update={"metadata": metadata, "status": status})


def finished() -> VideoGenerationStatus:
    resource = resource_with(build_status(PLAN, build_resource(), ALL))
    return reconcile(resource, PLAN, Observed(GROUPS), NOW).status


def running() -> VideoGenerationStatus:
    resource = resource_with(build_status(PLAN, build_resource(), Attempts(preflight=1, encode=1)))
    groups = (GROUPS[0], build_group(PLAN, Stage.ENCODE, 1, None))
    return reconcile(resource, PLAN, Observed(groups), NOW).status


def conditions(status: VideoGenerationStatus) -> dict[ConditionType, tuple[ConditionStatus, str, str, int]]:
    return {each.type: (each.status, each.reason, each.message, each.observed_generation) for each in status.conditions}


def test_a_manifest_of_which_nothing_can_be_made_is_stalled_with_the_remedy() -> None:
    refused = refuse(VideoGenerationStatus(), 3, "InvalidInput", BAD, NOW)
    assert (refused.phase, refused.message, refused.observed_generation, refused.completion_time) == (
        Phase.FAILED,
        BAD,
        3,
        NOW,
    )
    assert conditions(refused) == {
        ConditionType.READY: (ConditionStatus.FALSE, "InvalidInput", BAD, 3),
        ConditionType.RECONCILING: (ConditionStatus.FALSE, "InvalidInput", BAD, 3),
        ConditionType.STALLED: (ConditionStatus.TRUE, "InvalidInput", BAD, 3),
    }


def test_refusing_the_same_manifest_again_changes_nothing() -> None:
    refused = refuse(VideoGenerationStatus(), 3, "InvalidInput", BAD, NOW)
    assert refuse(refused, 3, "InvalidInput", BAD, after(60)) == refused


def test_a_run_ends_when_its_manifest_is_refused_and_again_when_the_next_one_is() -> None:
    before = running().model_copy(update={"estimated_completion_time": after(500)})
    first = refuse(before, before.observed_generation, "ConfigInvalid", "its plan cannot be read", after(10))
    assert (first.completion_time, first.estimated_completion_time) == (after(10), None)
    assert refuse(first, first.observed_generation + 1, "InvalidInput", BAD, after(20)).completion_time == after(20)


def test_a_refused_manifest_begins_when_it_has_been_mended() -> None:
    refused = refuse(VideoGenerationStatus(), 1, "InvalidInput", BAD, NOW)
    mended = resource_with(refused, generation=2)
    decision = reconcile(mended, PLAN, Observed(), after(60))
    assert [(group.stage, group.attempt) for group in decision.create] == [(Stage.PREFLIGHT, 1)]
    assert (decision.status.phase, decision.status.start_time, decision.status.completion_time) == (
        Phase.PREFLIGHT,
        after(60),
        None,
    )
    stalled = conditions(decision.status)[ConditionType.STALLED]
    assert stalled[:2] == (ConditionStatus.FALSE, "Preflight")


def test_an_edit_that_is_refused_ends_the_run_and_going_back_begins_a_new_try_of_it() -> None:
    refused = refuse(running(), 2, "InvalidInput", BAD, after(10))
    assert (refused.run_id, refused.runners, refused.completion_time) == (PLAN.run_id, (), after(10))
    back = resource_with(refused, generation=3)
    decision = reconcile(back, PLAN, Observed((GROUPS[0],)), after(20))
    assert [(group.stage, group.attempt) for group in decision.create] == [(Stage.PREFLIGHT, 2)]
    assert decision.delete == (GROUPS[0],)


def test_what_the_cluster_refuses_for_now_leaves_a_new_resource_pending() -> None:
    blocked = block(resource_with(VideoGenerationStatus(), generation=4), "QuotaExceeded", QUOTA, NOW)
    assert (blocked.phase, blocked.message) == (Phase.PENDING, QUOTA)
    assert conditions(blocked) == {
        ConditionType.READY: (ConditionStatus.FALSE, "QuotaExceeded", QUOTA, 4),
        ConditionType.RECONCILING: (ConditionStatus.TRUE, "QuotaExceeded", QUOTA, 4),
        ConditionType.STALLED: (ConditionStatus.FALSE, "QuotaExceeded", QUOTA, 4),
    }
    assert block(resource_with(blocked, generation=4), "QuotaExceeded", QUOTA, after(60)) == blocked


def test_a_blocked_resource_begins_when_the_cluster_lets_it() -> None:
    blocked = resource_with(block(resource_with(VideoGenerationStatus()), "QuotaExceeded", QUOTA, NOW))
    assert is_new(blocked)
    decision = reconcile(blocked, PLAN, Observed(), after(60))
    assert [(group.stage, group.attempt) for group in decision.create] == [(Stage.PREFLIGHT, 1)]
    assert decision.status.start_time == after(60)


def test_a_run_that_is_blocked_stays_in_its_phase_and_goes_on_where_it_was() -> None:
    before = running()
    blocked = block(resource_with(before), "QuotaExceeded", QUOTA, after(10))
    assert (blocked.phase, blocked.message, blocked.attempts, blocked.start_time) == (
        Phase.ENCODING,
        QUOTA,
        before.attempts,
        before.start_time,
    )
    observed = Observed((GROUPS[0], GROUPS[1]))
    decision = reconcile(resource_with(blocked), PLAN, observed, after(20))
    assert [(group.stage, group.attempt) for group in decision.create] == [(Stage.GENERATE, 1)]


def test_an_edit_that_is_blocked_is_not_yet_observed_so_that_it_is_planned_again() -> None:
    before = running()
    edited = resource_with(before, generation=before.observed_generation + 1)
    assert block(edited, "QuotaExceeded", QUOTA, after(10)).observed_generation == before.observed_generation


def test_a_finished_run_whose_children_cannot_be_deleted_stays_finished() -> None:
    done = finished()
    expired = resource_with(done, generation=2, ttlSecondsAfterFinished=0)
    assert settle(expired, Observed(GROUPS), after(10)).delete == GROUPS
    assert block(expired, "Refused", "jobs is forbidden", after(10)) == done


def test_a_finished_run_whose_next_one_was_blocked_is_checked_again_when_the_manifest_goes_back() -> None:
    prompts = [{"name": "hen", "text": "a hen"}]
    blocked = block(resource_with(finished(), generation=2, prompts=prompts), "QuotaExceeded", QUOTA, after(10))
    assert blocked.phase == Phase.PENDING
    back = resource_with(blocked, generation=3)
    assert is_new(back)
    decision = reconcile(back, PLAN, Observed(GROUPS), after(20))
    # Preflight finds every clip: no card is touched.
    assert [(group.stage, group.attempt) for group in decision.create] == [(Stage.PREFLIGHT, 2)]
