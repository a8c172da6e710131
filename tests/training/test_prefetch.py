"""Loading ahead in a thread."""

import threading

import pytest

from atlasmith.training.prefetch import Prefetch


def test_the_next_step_is_loaded_while_a_step_computes_and_none_beyond_the_last() -> None:
    loaded: list[int] = []
    ready = [threading.Event() for _ in range(4)]

    def load(index: int) -> int:
        assert threading.current_thread().name.startswith("prefetch")
        loaded.append(index)
        ready[index].set()
        return index

    with Prefetch(load, 4) as batches:
        for index in (1, 2, 3):  # from 1, as when resumed
            assert batches(index) == index
            if index < 3:
                assert ready[index + 1].wait(10)
    assert loaded == [1, 2, 3]


def test_steps_in_any_order_get_their_own_data() -> None:
    with Prefetch(lambda index: index, 9) as batches:
        assert [batches(index) for index in (0, 5, 5, 6, 2)] == [0, 5, 5, 6, 2]


def test_an_error_of_the_thread_is_raised_by_the_step_it_belongs_to() -> None:
    def load(index: int) -> int:
        if index == 1:
            raise OSError("image 1")
        return index

    with Prefetch(load, 3) as batches:
        assert batches(0) == 0
        for _ in range(2):
            with pytest.raises(OSError, match="image 1"):
                batches(1)
        assert batches(2) == 2


def test_no_thread_is_left_even_after_an_error() -> None:
    before = set(threading.enumerate())
    with pytest.raises(KeyboardInterrupt), Prefetch(lambda index: index, 9) as batches:
        batches(0)
        raise KeyboardInterrupt
    assert set(threading.enumerate()) == before
