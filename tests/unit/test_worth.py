"""Whether hidden states that are kept are worth it."""

from __future__ import annotations

import math

import pytest

from frostline.train.worth import Estimate


@pytest.mark.parametrize(
    ("passes", "compute_s", "read_s", "why_not"),
    [
        (1.0, math.nan, math.nan, "it would save 1.0 passes over the rows, and filling takes one"),
        (1.4, 10.0, 0.0, "it would save 1.4 passes over the rows, and filling takes one"),
        (1.6, 10.0, 0.0, None),
        (30.0, 10.0, 9.0, None),
        (10.0, 10.0, 9.0, "reading hidden states takes 9.0 s a pass, computing them 10.0 s"),
        (1000.0, 0.5, 0.6, "reading hidden states takes 0.6 s a pass, computing them 0.5 s"),
    ],
)
def test_it_pays_if_what_is_saved_is_more_than_filling_and_reading(passes, compute_s, read_s, why_not):
    assert Estimate(passes=passes, compute_s=compute_s, read_s=read_s).why_not() == why_not


def test_writing_counts_where_computing_is_fast():
    """On a GPU a file takes longer to write than its numbers to compute."""
    estimate = Estimate(passes=10.0, compute_s=0.5, read_s=0.4, write_s=1.7)
    assert estimate.why_not() == ("reading hidden states takes 0.4 s a pass, computing them 0.5 s, writing them 1.7 s")
    assert Estimate(passes=10.0, compute_s=0.5, read_s=0.2, write_s=1.7).why_not() is None


def test_what_is_decided_is_told_in_seconds():
    words = Estimate(passes=33.0, compute_s=25.21, read_s=0.31).words()
    assert words == " in some 25.2 s, for 33 passes over the rows; reading one takes 0.3 s"
    assert Estimate(passes=1.0, compute_s=math.nan, read_s=math.nan).words() == ""
