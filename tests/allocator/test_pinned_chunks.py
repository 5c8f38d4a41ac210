"""Packing into pinned memory: nothing is lost, nothing overlaps, and little is wasted."""

from hypothesis import given
from hypothesis import strategies as st

from profiler.allocator.pinned import round_pinned
from profiler.allocator.pinned_chunks import Chunk, aligned, chunks, pinned_bytes
from profiler.allocator.settings import BLOCK_BYTES
from profiler.units import MIB


def test_nothing_takes_no_chunk():
    assert chunks([]) == chunks([0, 0]) == ()


def test_one_tensor_takes_the_next_power_of_two():
    assert chunks([0, 3 * MIB]) == (Chunk(4 * MIB, (1,)),)


def test_a_large_one_and_what_fits_beside_it():
    # 3 + 1 MiB fill 4; 2 MiB are left.
    assert chunks([MIB, 3 * MIB, 2 * MIB]) == (Chunk(4 * MIB, (1, 0)), Chunk(2 * MIB, (2,)))


@given(st.lists(st.integers(0, 5 * MIB), max_size=60))
def test_every_tensor_is_in_one_chunk_and_fits(sizes):
    made = chunks(sizes)
    assert sorted(i for chunk in made for i in chunk.indices) == [
        i for i, size in enumerate(sizes) if size
    ]
    for chunk in made:
        assert chunk.nbytes == round_pinned(chunk.nbytes) >= BLOCK_BYTES
        assert sum(aligned(sizes[i]) for i in chunk.indices) <= chunk.nbytes
    assert pinned_bytes(sizes) == sum(chunk.nbytes for chunk in made)


@given(st.lists(st.integers(1, 5 * MIB), min_size=1, max_size=60))
def test_no_chunk_has_room_for_what_comes_in_a_later_one(sizes):
    made = chunks(sizes)
    for number, chunk in enumerate(made):
        free = chunk.nbytes - sum(aligned(sizes[i]) for i in chunk.indices)
        later = [aligned(sizes[i]) for one in made[number + 1 :] for i in one.indices]
        assert free < min(later, default=chunk.nbytes)


def test_a_transformer_wastes_little():
    """FLUX.1-dev's: 19 double blocks and 38 single ones of width 3072, in bfloat16, without biases and norms."""
    square = 3072 * 3072 * 2
    double = [square] * 8 + [4 * square] * 4 + [6 * square] * 2
    single = [square] * 3 + [3 * square, 4 * square, 5 * square]
    sizes = double * 19 + single * 38
    assert pinned_bytes(sizes) < 1.01 * sum(sizes)
    assert sum(map(round_pinned, sizes)) > 1.5 * sum(sizes)
    assert len(chunks(sizes)) < 10
