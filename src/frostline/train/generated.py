"""Texts that a run's kept weights write from evaluation rows, and their ROUGE."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from datasets import Dataset

from frostline.files import written_whole
from frostline.inference.generate import Generation, Writer
from frostline.records.run_folder import GENERATED_FILE, MODEL_FOLDER
from frostline.spec import EVAL_SET, RunSpec

_KINDS = ("rouge1", "rouge2", "rougeL")
"""Overlap of words, of pairs of words, and the longest common subsequence."""


def write_generated(spec: RunSpec, rows: Dataset, folder: Path, heartbeat: Callable[[], None]) -> dict[str, float]:
    """Writes `generated.jsonl`: the first `training.generate_rows` evaluation rows with what the saved model writes.

    It takes the likeliest token each time.

    Args:
        spec: The run.
        rows: Its evaluation rows, as they were read.
        folder: The run's, with its model.
        heartbeat: Called after each row.

    Returns:
        `eval/rouge1`, `eval/rouge2`, `eval/rougeL`: means over the rows of the F1 of ROUGE (Lin 2004), 0 to 1, with
        words stemmed, as rouge-score computes it. Nothing where no row is asked for.
    """
    if spec.training.generate_rows is None:
        return {}
    from rouge_score.rouge_scorer import RougeScorer

    first = rows.select(range(min(spec.training.generate_rows, len(rows))))
    training = spec.training
    writer = Writer(folder / MODEL_FOLDER, is_chat=False, max_tokens=training.max_tokens)
    how = Generation(max_new_tokens=training.max_target_tokens or training.max_tokens)
    scorer = RougeScorer(list(_KINDS), use_stemmer=True)
    records: list[dict[str, Any]] = []
    texts = writer.write(first["text"], how)
    for row, (target, (text, written)) in enumerate(zip(first["target"], texts, strict=True)):
        scores = scorer.score(target, written)
        values = {kind: round(float(scores[kind].fmeasure), 4) for kind in _KINDS}
        records.append({"row": row, "text": text, "target": target, "written": written, **values})
        heartbeat()
    with written_whole(folder / GENERATED_FILE) as temporary:
        lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in records]
        temporary.write_text("".join(lines), encoding="utf-8")
    return {f"{EVAL_SET}/{kind}": sum(record[kind] for record in records) / len(records) for kind in _KINDS}
