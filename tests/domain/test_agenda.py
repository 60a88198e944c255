"""The agenda: nothing that is due is lost, and nobody waits for one who wished later."""

from __future__ import annotations

from math import inf

from hypothesis import given
from hypothesis import strategies as st

from node.domain.agenda import Agenda

STEPS = st.tuples(
    st.sampled_from(["put", "wish", "drop", "look"]), st.integers(0, 4), st.integers(0, 9)
)


@given(st.lists(STEPS, max_size=300))
def test_it_says_what_a_table_of_times_and_a_queue_say(
    steps: list[tuple[str, int, int]],
) -> None:
    agenda: Agenda[int] = Agenda()
    times: dict[int, float] = {}
    queue: list[int] = []

    for now, (step, item, seconds) in enumerate(steps):
        if step == "put":
            at = now + seconds if seconds else inf
            agenda.put(item, at)
            times.pop(item, None)
            times |= {item: at} if at < inf else {}
        elif step == "wish":
            agenda.wish(item)
            times.pop(item, None)
            queue += [item] if item not in queue else []
        elif step == "drop":
            agenda.drop(item)
            times.pop(item, None)
            queue = [each for each in queue if each != item]
        else:
            due = agenda.come_due(now)
            assert sorted(due) == sorted(each for each, at in times.items() if at <= now)
            assert [times[each] for each in due] == sorted(times[each] for each in due)
            times = {each: at for each, at in times.items() if at > now}
            assert agenda.first() == (queue[0] if queue else None)
            if queue:
                agenda.done(queue.pop(0))


def test_times_that_were_put_off_again_and_again_take_no_room() -> None:
    agenda: Agenda[str] = Agenda()

    for second in range(10_000):
        agenda.put("series", 60.0 + second)

    assert len(agenda._heap) < 200
    assert agenda.come_due(20_000.0) == ["series"]
