"""Every answer of a STOW-RS server has a class."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from node.deliver.stow_answer import classify_http, judge_answer
from node.domain.delivery import DeliveryClass
from tests.support.evil_peers import failed_answer


@given(st.integers(100, 599))
def test_no_http_status_is_proof_by_itself(status: int) -> None:
    assert not classify_http(status).is_done


@given(st.binary(max_size=200), st.sampled_from([202, 400, 409, 500]))
def test_no_body_makes_a_success_of_an_answer_that_does_not_name_the_object(
    body: bytes, status: int
) -> None:
    assert not judge_answer(status, body, "1.2.3").is_done


@given(st.integers(0, 0xFFFF), st.sampled_from([200, 202, 409]))
def test_an_object_listed_as_failed_is_never_sent(reason: int, status: int) -> None:
    outcome = judge_answer(status, failed_answer("1.2.3", reason), "1.2.3")

    assert outcome.kind is not DeliveryClass.SENT


def test_deeply_nested_json_is_no_answer() -> None:
    assert not judge_answer(202, b"[" * 100_000, "1.2.3").is_done


def test_an_object_in_both_lists_counts_as_failed() -> None:
    body = (
        b'{"00081199": {"Value": [{"00081155": {"Value": ["1.2.3"]}}]},'
        b' "00081198": {"Value": [{"00081155": {"Value": ["1.2.3"]},'
        b' "00081197": {"Value": [42752]}}]}}'
    )

    assert judge_answer(202, body, "1.2.3").kind is DeliveryClass.RETRY
