"""How many trials a machine trains side by side, from what it has and what a trial takes."""

import pytest

from frostline.sweeps.slots import Slots, on_cores, on_gpus, slot_env
from frostline.train import Footprint

GB = 10**9


@pytest.mark.parametrize(
    ("cores", "least", "most", "exactly", "count"),
    [
        (1, 1, 14, False, 1),
        (2, 1, 14, False, 2),
        (4, 1, 3, False, 2),  # two threads each: three trials would leave a core idle
        (6, 1, 4, False, 3),
        (16, 1, 4, False, 4),
        (64, 1, 4, False, 4),
        (8, 1, 100, False, 8),
        (7, 1, 3, False, 3),  # two threads each, and a core is left: better than seven threads for one
        (8, 2, 100, False, 4),  # two processes each
        (2, 4, 14, False, 1),
        (8, 3, 14, True, 2),  # runtime.threads=3
        (8, 1, 3, True, 3),
    ],
)
def test_cores_are_shared_by_as_many_trials_as_use_them_best(cores, least, most, exactly, count):
    assert on_cores(cores, least, most, exactly) == count


@pytest.mark.parametrize(
    ("groups", "busy", "peak", "most", "count"),
    [
        (1, 0.9, 4 * GB, 16, 1),  # busy with one
        (1, 0.25, 4 * GB, 16, 4),
        (2, 0.25, 4 * GB, 16, 8),
        (1, 0.25, 30 * GB, 16, 2),  # the memory holds no more
        (1, 0.25, 79 * GB, 16, 1),
        (1, 0.001, GB, 64, 16),
        (1, 0.0, GB, 64, 16),
        (1, 0.25, 4 * GB, 3, 3),  # cores, or what the sampler can be asked for
        (4, 0.9, 4 * GB, 2, 4),  # each has one, whatever else
    ],
)
def test_gpus_are_shared_by_as_many_trials_as_fit_and_keep_them_busy(groups, busy, peak, most, count):
    takes = Footprint(peak_bytes=peak, free_bytes=80 * GB, busy=busy)
    assert on_gpus(groups, takes, most) == count


def test_each_slot_has_its_threads_and_takes_turns_at_the_gpus():
    env = slot_env(3, 2, ["0", "1"])
    assert [env(slot)["CUDA_VISIBLE_DEVICES"] for slot in range(3)] == ["0", "1", "0"]
    assert {env(slot)["OMP_NUM_THREADS"] for slot in range(3)} == {"2"}


def test_it_is_reported_in_one_line():
    assert str(Slots(count=4, threads=2, gpus=())) == "4 trials side by side, 2 threads each"
    assert str(Slots(count=1, threads=2, gpus=())) == "one trial at a time, 2 threads"
