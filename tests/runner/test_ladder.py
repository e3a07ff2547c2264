from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from videogen_runner.ladder import Form, Ladder, Needs, Room, Work

DENOISE, DECODE = Work.DENOISE, Work.DECODE
PLANNED = Form(guidance_batch=2, decode_batch_frames=4)
# Eight blocks of 10 (16 on the host) beside 100 that stay; a step takes 200 or 100, a loop 400 to 100.
NEEDS = Needs(
    fixed=100, block=10, host_block=16, num_blocks=8,
    denoise={2: 200, 1: 100}, decode={4: 400, 3: 300, 2: 200, 1: 100},
)  # fmt: skip
HOST = 10_000


def room(device: int, host: int = HOST) -> Room:
    return Room(device, host)


def ladder(form: Form = PLANNED, needs: Needs = NEEDS) -> Ladder:
    return replace(Ladder.of_plan(PLANNED, needs), form=form)


def settle(ladder: Ladder, *work_and_room: tuple[Work, int]) -> list[Form]:
    """The form before each piece of work in turn."""
    forms = []
    for work, device in work_and_room:
        ladder = ladder.before(work, room(device))
        forms.append(ladder.form)
    return forms


def test_work_that_fits_runs_in_the_plans_form() -> None:
    assert settle(ladder(), (DENOISE, 380), (DECODE, 580)) == [PLANNED] * 2


@pytest.mark.parametrize(
    ("work", "device", "expected"),
    [
        (DECODE, 579, Form(2, 3)),
        (DECODE, 480, Form(2, 3)),
        (DECODE, 380, Form(2, 2)),
        (DECODE, 280, Form(2, 1)),
        # A quarter on the host is two blocks, and two buffers for them: the first that helps is half of them.
        (DECODE, 279, Form(2, 1, 4)),
        (DECODE, 240, Form(2, 1, 6)),
        (DENOISE, 379, Form(1, 4)),
        (DENOISE, 279, Form(1, 4, 4)),
        (DENOISE, 220, Form(1, 4, 8)),
    ],
)
def test_the_first_smaller_form_that_fits_is_taken_before_anything_fails(
    work: Work, device: int, expected: Form
) -> None:
    after = ladder().before(work, room(device))
    assert after.form == expected
    assert NEEDS.of(work, after.form) <= device


def test_where_nothing_fits_the_smallest_form_is_tried_for_predictions_may_be_wrong() -> None:
    assert settle(ladder(), (DENOISE, 1), (DECODE, 1)) == [Form(1, 4, 8), Form(1, 1, 8)]


def test_blocks_go_to_the_host_only_as_far_as_it_has_room() -> None:
    assert ladder().before(DENOISE, room(1, host=79)).form == Form(1, 4, 4)
    assert ladder().before(DENOISE, room(1, host=0)).form == Form(1, 4, 0)


def test_where_the_host_is_the_device_no_block_moves() -> None:
    cpu = ladder(needs=replace(NEEDS, num_blocks=0, block=0, host_block=0, fixed=180))
    assert settle(cpu, (DENOISE, 1), (DECODE, 1)) == [Form(1, 4), Form(1, 1)]


def test_a_form_that_the_plan_does_not_offer_is_never_taken() -> None:
    needs = replace(NEEDS, decode={1: 100})
    one_frame = Ladder.of_plan(Form(2, 1), needs)
    assert one_frame.before(DECODE, room(1)).form == Form(2, 1, 8)
    assert one_frame.before(DECODE, room(10**9)).form == Form(2, 1)


def test_room_that_stays_takes_the_form_back_up_one_rung_at_a_time_blocks_first() -> None:
    ample = [(DENOISE, 10**6)] * 9
    form_of_look = settle(ladder(Form(1, 4, 4)), *ample)
    assert form_of_look == [
        Form(1, 4, 4), Form(1, 4, 4), Form(1, 4, 2),
        Form(1, 4, 2), Form(1, 4, 2), Form(1, 4, 0),
        Form(1, 4, 0), Form(1, 4, 0), Form(2, 4, 0),
    ]  # fmt: skip


def test_one_look_without_ample_room_begins_the_calm_again() -> None:
    looks = [(DENOISE, 10**6)] * 2 + [(DENOISE, 380)] + [(DENOISE, 10**6)] * 2
    assert settle(ladder(Form(1, 4)), *looks) == [Form(1, 4)] * 5


def test_room_that_is_barely_enough_does_not_take_the_form_up() -> None:
    assert settle(ladder(Form(1, 4)), *[(DENOISE, 417)] * 9) == [Form(1, 4)] * 9
    assert settle(ladder(Form(1, 4)), *[(DENOISE, 418)] * 3)[-1] == PLANNED


def test_blocks_that_decoding_needs_away_stay_away_while_denoising_has_room() -> None:
    assert settle(ladder(Form(2, 4, 8)), *[(DENOISE, 550)] * 9) == [Form(2, 4, 8)] * 9


def test_a_room_that_swings_about_a_form_does_not_make_it_flap() -> None:
    forms = settle(ladder(), *[(DENOISE, 370 if look % 2 else 390) for look in range(40)])
    assert forms == [PLANNED] + [Form(1, 4)] * 39


def test_a_failure_takes_the_same_work_down_the_ladder_to_its_end() -> None:
    forms, current = [], ladder()
    while (following := current.after_failure(DECODE, room(10**6))) is not None:
        current = following
        forms.append(current.form)
    assert forms == [Form(2, 3), Form(2, 2), Form(2, 1), Form(2, 1, 2), Form(2, 1, 4), Form(2, 1, 6), Form(2, 1, 8)]


def test_a_failure_goes_straight_to_a_form_that_fits() -> None:
    after = ladder().after_failure(DECODE, room(300))
    assert after is not None
    assert after.form == Form(2, 1)


def test_what_has_failed_is_tried_again_only_with_more_room() -> None:
    after = ladder().after_failure(DENOISE, room(1000))
    assert after is not None
    assert after.form == Form(1, 4)
    assert settle(after, *[(DENOISE, 1100)] * 9) == [Form(1, 4)] * 9
    assert settle(after, *[(DENOISE, 1101)] * 3)[-1] == PLANNED


def test_a_failure_in_decoding_is_the_same_failure_with_guidance_in_two_passes() -> None:
    after = ladder().after_failure(DECODE, room(1000))
    assert after is not None
    assert after.form == Form(2, 3)
    in_two_passes = replace(after, form=Form(1, 3))
    assert settle(in_two_passes, *[(DECODE, 1100)] * 9) == [Form(1, 3)] * 9
    assert settle(in_two_passes, *[(DECODE, 1101)] * 3)[-1] == Form(1, 4)


def test_a_form_that_could_not_be_taken_up_is_left_for_the_one_before_and_not_tried_again_in_the_same_room() -> None:
    up = ladder(Form(1, 4, 2))
    back = up.back_to(Form(1, 4, 4), DENOISE, room(1000))
    assert settle(back, *[(DENOISE, 1100)] * 9) == [Form(1, 4, 4)] * 9
    assert settle(back, *[(DENOISE, 1101)] * 3)[-1] == Form(1, 4, 2)


def test_a_failure_of_one_kind_of_work_says_nothing_of_the_other() -> None:
    after = ladder().after_failure(DENOISE, room(1000))
    assert after is not None
    assert after.before(DECODE, room(1000)).form == Form(1, 4)


def test_weights_on_the_host_alone_are_no_adaptation() -> None:
    forms = (PLANNED, Form(2, 4, 8), Form(1, 4), Form(2, 3))
    assert [(ladder(form).is_adapted(DENOISE), ladder(form).is_adapted(DECODE)) for form in forms] == [
        (False, False), (False, False), (True, False), (False, True),
    ]  # fmt: skip


@given(st.lists(st.tuples(st.sampled_from(Work), st.integers(0, 1000), st.integers(0, 200)), max_size=40))
def test_no_sequence_of_rooms_leaves_the_plans_bounds_or_a_form_that_is_larger_than_it_need_be(
    looks: list[tuple[Work, int, int]],
) -> None:
    current = ladder()
    for work, device, host in looks:
        before = current.form
        current = current.before(work, room(device, host))
        form = current.form
        assert 1 <= form.guidance_batch <= 2
        assert 1 <= form.decode_batch_frames <= 4
        assert 0 <= form.host_blocks <= 8
        assert max(0, form.host_blocks - before.host_blocks) * NEEDS.host_block <= host
        smallest = replace(form, guidance_batch=1, decode_batch_frames=1, host_blocks=before.host_blocks)
        if NEEDS.of(work, smallest) <= device:
            assert NEEDS.of(work, form) <= device
