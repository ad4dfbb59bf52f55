"""Facts of what stages say of the rows that they did not keep."""

from promptcot_jax.synthesis import outcomes
from promptcot_jax.synthesis.outcomes import Reject


def test_rejects_stand_in_the_order_of_their_rows_and_those_of_a_row_by_sample():
    subjects = [("b", 10), ("a", 1), ("b", 9), ("a", 0)]
    rejects = [Reject({"id": row, "sample": sample}, "wrong", {}) for row, sample in subjects]
    whole = Reject({"id": "c"}, "repeated", {})  # the row, not a sample of it
    found = outcomes.in_order([whole, *rejects], ["b", "c", "a"])
    order = [(reject.subject["id"], reject.subject.get("sample")) for reject in found]
    assert order == [("b", 9), ("b", 10), ("c", None), ("a", 0), ("a", 1)]
