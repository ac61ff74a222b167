"""The state machine as the contract draws it."""

import pytest

from secateur.jobs import NEXT_STATES, JobState

FINAL = {JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELED}


def test_every_state_says_what_comes_next():
    assert set(NEXT_STATES) == set(JobState)


@pytest.mark.parametrize("state", list(JobState))
def test_a_state_is_final_if_nothing_comes_next(state):
    assert state.is_final is (state in FINAL)


def test_every_state_is_reached_and_every_life_ends():
    reached, frontier = set(), {JobState.QUEUED}
    while frontier:
        reached |= frontier
        frontier = {then for state in frontier for then in NEXT_STATES[state]} - reached
    assert reached == set(JobState)
    ends = set(FINAL)
    for _ in JobState:
        ends |= {state for state, following in NEXT_STATES.items() if following & ends}
    assert ends == set(JobState)


def test_a_job_that_is_asked_to_stop_does_nothing_else():
    assert NEXT_STATES[JobState.CANCELING] == {JobState.CANCELED}
