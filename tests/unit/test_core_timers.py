"""The timer queue: order, lazy postponing, cancelling, and its cost."""

from hypothesis import given
from hypothesis import strategies as st

from netstack.core.timers import SLACK, TimerQueue


class Owner:
    """Has one deadline."""

    def __init__(self, deadline: float | None) -> None:
        self.deadline = deadline
        self.timer_at: float | None = None
        self.fired: list[float] = []

    def next_timeout(self) -> float | None:
        return self.deadline

    def on_timeout(self, now: float) -> None:
        self.fired.append(now)
        self.deadline = None


def run(queue: TimerQueue, now: float) -> list[Owner]:
    done = []
    for owner in queue.due(now):
        owner.on_timeout(now)
        queue.touch(owner)
        done.append(owner)
    return done  # type: ignore[return-value]


@given(st.lists(st.floats(0, 100), max_size=50), st.floats(0, 100))
def test_due_gives_all_that_is_due_in_order(deadlines: list[float], now: float) -> None:
    queue = TimerQueue()
    owners = [Owner(deadline) for deadline in deadlines]
    for owner in owners:
        queue.touch(owner)
    before = [owner.deadline for owner in run_deadlines(queue, now)]
    assert before == sorted(deadline for deadline in deadlines if deadline <= now)
    left = [deadline for deadline in deadlines if deadline > now]
    assert queue.next_timeout() == (min(left) if left else None)


def run_deadlines(queue: TimerQueue, now: float) -> list[Owner]:
    seen = []
    for owner in queue.due(now):
        seen.append(Owner(owner.next_timeout()))
        owner.on_timeout(now)
        queue.touch(owner)
    return seen


def test_postponing_costs_no_entry() -> None:
    queue = TimerQueue()
    owner = Owner(1.0)
    queue.touch(owner)
    for later in range(2, 1000):
        owner.deadline = float(later)
        queue.touch(owner)
    assert len(queue) == 1
    assert run(queue, 500.0) == []
    assert queue.next_timeout() == 999.0
    assert run(queue, 999.0) == [owner]


def test_an_earlier_deadline_counts() -> None:
    queue = TimerQueue()
    owner = Owner(10.0)
    queue.touch(owner)
    owner.deadline = 2.0
    queue.touch(owner)
    assert queue.next_timeout() == 2.0
    assert run(queue, 5.0) == [owner]
    assert queue.next_timeout() is None
    assert owner.fired == [5.0]


def test_cancelled_owner_never_fires() -> None:
    queue = TimerQueue()
    owner, other = Owner(1.0), Owner(2.0)
    queue.touch(owner)
    queue.touch(other)
    queue.cancel(owner)
    assert run(queue, 3.0) == [other]
    assert owner.fired == []


def test_dead_entries_do_not_pile_up() -> None:
    queue = TimerQueue()
    stays = Owner(9000.0)
    queue.touch(stays)
    for at in range(10_000):
        passing = Owner(7440.0 + at)
        queue.touch(passing)
        passing.deadline = 5.0
        queue.touch(passing)
        queue.cancel(passing)
        queue.cancel(passing)
    assert len(queue) < 200
    assert queue.next_timeout() == 9000.0


def test_owner_may_set_a_new_deadline_while_firing() -> None:
    queue = TimerQueue()

    class Periodic(Owner):
        def on_timeout(self, now: float) -> None:
            self.fired.append(now)
            self.deadline = now + 30.0

    owner = Periodic(30.0)
    queue.touch(owner)
    for now in (30.0, 60.0, 90.0):
        assert run(queue, now) == [owner]
    assert owner.fired == [30.0, 60.0, 90.0]
    assert queue.next_timeout() == 120.0


def test_a_deadline_that_comes_and_goes_before_a_far_one_leaves_no_pile_of_entries() -> None:
    """A flow with an idle limit of hours that retransmits now and then: each time leaves a far entry behind."""
    queue = TimerQueue()
    owner = Owner(7440.0)
    queue.touch(owner)
    for now in range(5000):
        owner.deadline = now + 0.2
        queue.touch(owner)
        owner.deadline = now + 7440.0
        assert run(queue, now + 0.5) == []
    assert len(queue) <= 2 + SLACK
    assert queue.next_timeout() == 4999 + 7440.0


def test_cancelled_owners_are_not_kept_until_their_deadline() -> None:
    queue = TimerQueue()
    kept = Owner(3.0)
    queue.touch(kept)
    for _ in range(5000):
        owner = Owner(7440.0)
        queue.touch(owner)
        queue.cancel(owner)
        queue.cancel(owner)
    assert len(queue) <= 2 + SLACK
    assert run(queue, 8000.0) == [kept]
    assert len(queue) == 0
