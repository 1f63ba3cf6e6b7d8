"""Airline tweets as they are downloaded: quotes, line breaks, emoji, holes in the columns that nobody asked for."""

from __future__ import annotations

import csv
import random

import pytest

from tests.conftest import NEGATIVE, POSITIVE, TINY
from tests.support.sweep_tools import call, trials_in

HEADER = (
    "tweet_id", "airline_sentiment", "airline_sentiment_confidence", "negativereason", "negativereason_confidence",
    "airline", "airline_sentiment_gold", "name", "negativereason_gold", "retweet_count", "text", "tweet_coord",
    "tweet_created", "tweet_location", "user_timezone",
)  # fmt: skip


def tweets(count):
    rng = random.Random(0)
    for index in range(count):
        mood = ("negative", "neutral", "positive")[index % 3]
        word = {"negative": rng.choice(NEGATIVE), "positive": rng.choice(POSITIVE)}.get(mood, "a")
        text = rng.choice(
            [
                f"@VirginAmerica the film was {word} {index} ✈️",
                f'@united "{word}", and the plot, with actors {index}',
                f"@SouthwestAir {word}\nand a story\n{index} 😡",
                f"@JetBlue it's {word}; &amp; more {index}",
            ]
        )
        reason = "Late Flight" if mood == "negative" and index % 2 else ""
        yield (
            str(570306133677760513 + index), mood, "1.0", reason, "0.7033" if reason else "", "Virgin America", "",
            "jnardino", "", "0", text, "[40.74804263, -73.99295302]" if index % 5 == 0 else "",
            "2015-02-24 11:35:52 -0800", "", "Eastern Time (US & Canada)",
        )  # fmt: skip


def write(path, rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(HEADER)
        writer.writerows(rows)
    return path


@pytest.fixture
def arguments(tiny_model, tmp_path):
    return [
        "sweep", "lr_x_depth", "dataset=csv", f"dataset.location={tmp_path / 'Tweets.csv'}", "dataset.text_column=text",
        "dataset.label_column=airline_sentiment", "model=path", f"model.location={tiny_model}", *TINY, "tracking=off",
        "sweep.n_trials=2", "training.epochs=1", "sweep.space.freeze.depth.high=4",
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_sweep_over_the_file_as_it_is(arguments, tmp_path):
    write(tmp_path / "Tweets.csv", tweets(180))
    done = call(*arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "best guess: nothing was learnt: all 2 runs gave one answer for all rows" in done.stdout
    found = trials_in(tmp_path / "runs" / "lr_x_depth")
    assert len(found) == 2
    config = (tmp_path / "runs" / "lr_x_depth").glob("*/model/config.json")
    assert '"1": "neutral"' in next(config).read_text()
    assert "rows that go over several lines" in done.stderr


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (
            "airline_sentiment",
            "Tweets.csv, row 8: the label is missing; dataset.missing_labels=drop leaves such rows out "
            "(dataset.label_column=airline_sentiment)",
        ),
        (None, "Tweets.csv, line 24: has 14 fields, there are 15 columns"),
    ],
)
@pytest.mark.slow
def test_errors_name_the_row(arguments, tmp_path, column, message):
    rows = [list(row) for row in tweets(60)]
    if column is None:
        rows[15].pop()
    else:
        rows[7][HEADER.index(column)] = ""
    write(tmp_path / "Tweets.csv", rows)
    done = call(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    last = done.stderr.strip().splitlines()[-1]
    if column is None:
        lines = sum(str(cell).count("\n") for row in rows[:15] for cell in row)
        message = f"Tweets.csv, line {17 + lines}: has 14 fields, there are 15 columns"
    assert last == f"frostline: {message}"
