from itertools import combinations, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from videogen_api.errors import InvalidInput
from videogen_api.sharding import block_ranges

SIZES = st.lists(st.integers(min_value=1, max_value=1000), min_size=1, max_size=9)


def sizes_of(block_bytes: list[int], ranges: tuple[range, ...]) -> list[int]:
    return [sum(block_bytes[index] for index in blocks) for blocks in ranges]


@given(block_bytes=SIZES, data=st.data())
def test_every_block_has_one_owner_and_no_partition_has_a_smaller_largest_part(
    block_bytes: list[int], data: st.DataObject
) -> None:
    shards = data.draw(st.integers(min_value=1, max_value=len(block_bytes)))
    ranges = block_ranges(block_bytes, shards)
    assert [index for blocks in ranges for index in blocks] == list(range(len(block_bytes)))
    assert len(ranges) == shards
    assert all(ranges)
    possible = [
        sizes_of(block_bytes, tuple(range(*ends) for ends in pairwise((0, *cuts, len(block_bytes)))))
        for cuts in combinations(range(1, len(block_bytes)), shards - 1)
    ]
    largest = min(max(sizes) for sizes in possible)
    squares = min(sum(size**2 for size in sizes) for sizes in possible if max(sizes) == largest)
    assert max(sizes_of(block_bytes, ranges)) == largest
    assert sum(size**2 for size in sizes_of(block_bytes, ranges)) == squares


@given(num_blocks=st.integers(min_value=1, max_value=48), data=st.data())
def test_equal_blocks_are_spread_evenly(num_blocks: int, data: st.DataObject) -> None:
    shards = data.draw(st.integers(min_value=1, max_value=num_blocks))
    lengths = {len(blocks) for blocks in block_ranges([7] * num_blocks, shards)}
    assert lengths <= {num_blocks // shards, -(-num_blocks // shards)}


def test_the_blocks_of_xxl_in_four_and_five_shards() -> None:
    assert block_ranges([1] * 24, 4) == (range(6), range(6, 12), range(12, 18), range(18, 24))
    assert block_ranges([1] * 24, 5) == (range(4), range(4, 9), range(9, 14), range(14, 19), range(19, 24))


def test_a_large_block_stands_alone() -> None:
    assert block_ranges([1, 1, 9, 1, 1], 3) == (range(2), range(2, 3), range(3, 5))


@pytest.mark.parametrize("shards", [-1, 0, 5])
def test_more_shards_than_blocks_and_none_are_refused(shards: int) -> None:
    with pytest.raises(InvalidInput, match=rf"spec.encoder.shards: {shards} is not allowed: the encoder has 4 blocks"):
        block_ranges([1] * 4, shards)
