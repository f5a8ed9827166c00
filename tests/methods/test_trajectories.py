"""The trajectory pool: who is where."""

from __future__ import annotations

import numpy as np
import pytest

from ea_jax.methods.trajectories import Turns, Visit


def test_members_take_turns_and_start_staggered():
    turns = Turns(members=4, batch=1, steps=28)
    assert [turns.offset(m) for m in range(4)] == [0, 7, 14, 21]
    assert turns.visits(0) == [Visit(0, 0, 0)]
    assert turns.visits(1) == [Visit(1, 7, 0)]
    assert turns.visits(5) == [Visit(1, 8, 0)]


def test_a_finished_member_starts_its_next_path_afresh():
    turns = Turns(members=2, batch=2, steps=4)
    steps = [turns.visits(step) for step in range(5)]
    assert [visit[1].index for visit in steps] == [2, 3, 0, 1, 2]
    assert [visit[1].round for visit in steps] == [0, 0, 1, 1, 1]
    assert [visit[1].fresh for visit in steps] == [False, False, True, False, False]


def test_every_index_is_visited_equally_often():
    turns = Turns(members=4, batch=2, steps=28)
    visited = [visit.index for step in range(56) for visit in turns.visits(step)]
    assert np.bincount(visited).tolist() == [4] * 28


def test_batch_must_divide_the_pool():
    with pytest.raises(ValueError, match="pool of 4 cannot be taken 3 at a time"):
        Turns(members=4, batch=3, steps=28)
