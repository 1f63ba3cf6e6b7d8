"""Pictures of a sweep: which there are, and the words of their points."""

import pytest

from frostline.records.trial import TrialState
from frostline.report.canvas import Canvas
from frostline.report.figures import make_figures, single_figures
from frostline.report.trial_figures import parallel_coordinates, slices
from frostline.spec import CostName
from tests.unit.report.test_answer import say, trial

TRIALS = [trial(n, n % 4, 0.7 + n / 100, lr=1e-5 * 3**n) for n in range(6)]


def test_a_points_words_stand_where_it_is_drawn():
    pictures = make_figures(TRIALS, say(TRIALS), CostName.TRAIN_S)
    assert set(pictures) == {"answer", "depth", "rates", "quality_vs_cost", "history", "slices", "parallel_coordinates"}
    spots = pictures["history"].spots
    assert [spot.text.split(":")[0] for spot in spots] == [f"#{n} {each.label()}" for n, each in enumerate(TRIALS)]
    assert [spot.left for spot in spots] == sorted(spot.left for spot in spots)  # from left to right, ever better
    assert [spot.top for spot in spots] == sorted((spot.top for spot in spots), reverse=True)
    assert all(0 < spot.left < 100 and 0 < spot.top < 100 for picture in pictures.values() for spot in picture.spots)
    words = [spot.text for spot in pictures["answer"].spots]
    assert words[0].startswith("frozen blocks 0: 0.")
    assert f"frozen blocks 3, rate 2.70e-04: {TRIALS[3].quality:.4f}" in words


def test_a_loss_is_no_negative_number():
    trials = [trial(n, n % 4, 0.9 - n / 100, lr=1e-5 * 3**n) for n in range(6)]
    spots = make_figures(trials, say(trials, "loss", maximize=False), CostName.TRAIN_S)["answer"].spots
    assert "frozen blocks 3, rate 2.70e-04: 0.8700" in [spot.text for spot in spots]
    assert "-0." not in "".join(spot.text for spot in spots)


@pytest.mark.parametrize("draw", [slices, parallel_coordinates])
def test_any_key_is_drawn_numbers_and_names(draw):
    trials = [
        trial(n, n % 4, 0.7 + n / 100, lr=1e-5 * 3**n, **{"model": f"m{n % 2}", "optimizer.warmup_ratio": n / 10})
        for n in range(6)
    ]
    canvas = Canvas()
    assert draw(canvas, trials, say(TRIALS))
    texts = {text.get_text() for axes in canvas.figure.axes for text in [*axes.get_xticklabels(), *axes.texts]}
    assert {"m0", "m1"} <= texts
    shown = {axes.get_xlabel() for axes in canvas.figure.axes} | texts
    assert {"freeze.depth", "optimizer.lr", "model", "optimizer.warmup_ratio"} <= shown
    assert len(canvas.picture().spots) == len(trials) * (4 if draw is slices else 5)


def test_one_depth_alone_has_no_picture_of_the_others():
    trials = [trial(n, 6, 0.63 + n / 50, lr=1e-4 * 3**n) for n in range(3)]
    assert {"depth", "rates", "answer"} & set(make_figures(trials, say(trials), CostName.TRAIN_S)) == set()


@pytest.mark.parametrize(
    "trials",
    [TRIALS[:2], [trial(n, 1, 0.7, lr=1e-5 * 3**n) for n in range(6)], [trial(0, 0, None, state=TrialState.FAILED)]],
    ids=["two", "one key", "failed"],
)
def test_what_the_trials_cant_fill_is_left_out(trials):
    answer = say(trials)
    assert not {"slices", "parallel_coordinates"} & set(single_figures(trials, answer, CostName.TRAIN_S))
