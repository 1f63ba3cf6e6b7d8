"""CoNLL files: one word a line with its tag, an empty line between sentences."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import datasets

from frostline.data.raw_table import RawTable
from frostline.errors import DataError

_COMMENT = re.compile(r"#\s*[\w ]+ = |#\s*new(doc|par)\b")
"""As CoNLL-U has them."""


def read_conll(path: Path, sha256: str) -> RawTable:
    """Reads sentences of the CoNLL shared tasks' form: on each line a word, perhaps more, and last the word's tag.

    Fields stand between tabs, or if a line has none between blanks. `-DOCSTART-` lines are left out, and comments:
    lines before a sentence that begin with `#` and have another number of fields than those of words, or are like
    `# sent_id = 1`.

    Returns:
        Columns `words` and `tags`, lists.

    Raises:
        DataError: A line has no tag, or other fields than most; one line, with its number.
    """
    sentences: dict[str, list[list[str]]] = {"words": [], "tags": []}
    words, tags = list[str](), list[str]()

    def end() -> None:
        if words:
            sentences["words"].append(words.copy())
            sentences["tags"].append(tags.copy())
        words.clear()
        tags.clear()

    with path.open(encoding="utf-8-sig", newline="\n") as file:
        raw_lines = file.readlines()
    has_tabs = 2 * sum("\t" in line for line in raw_lines) > sum(bool(line.strip()) for line in raw_lines)
    lines = [_conll_fields(line, has_tabs) for line in raw_lines]
    unclear = 0  # the first line that may be a comment, or a word that is a number sign
    usual = Counter(len(fields) for fields in lines if fields and not fields[0].startswith("#")).most_common(1)
    width = usual[0][0] if usual else 0
    for number, fields in enumerate(lines, 1):
        if not fields or fields[0].startswith("-DOCSTART-"):
            end()
        elif not fields[0].startswith("#") or words or len(fields) == width:
            if len(fields) < 2:
                raise DataError(f"{path.name}, line {number}: has a word ({fields[0]!r}) and no tag")
            if len(fields) != width:
                raise DataError(f"{path.name}, line {number}: has {len(fields)} fields, most lines have {width}")
            if fields[0] == "#" and not words:
                unclear = unclear or number
            words.append(fields[0])
            tags.append(fields[-1])
    end()
    if not sentences["words"]:
        raise DataError(f"{path}: holds no sentences")
    texts = datasets.Sequence(datasets.Value("string"))
    table = datasets.Dataset.from_dict(sentences, features=datasets.Features({"words": texts, "tags": texts}))
    long = [words for words in sentences["words"] if len(words) > 1]
    if long and all(words == [str(number) for number in range(1, len(words) + 1)] for words in long):
        raise DataError(
            f"{path.name}: its first column counts the words: keep words and tags, for example with cut -f 2,4"
        )
    if len(long) > 1 and all(len(set(words)) == 1 for words in long):
        raise DataError(
            f"{path.name}: its first column is the same in each sentence: keep the words and their tags alone"
        )
    note = f"{path.name}, line {unclear}: '#' is taken for a word, as the line has as many fields as the others"
    return RawTable(
        table=table, fingerprint=sha256, name=path.name, folder=path.parent, notes=(note,) if unclear else ()
    )


def _conll_fields(line: str, has_tabs: bool) -> list[str]:
    """Returns the fields of a line; no other blank than these parts them: one may stand within a word.

    Args:
        line: Of the file.
        has_tabs: Whether most lines have: one that begins with `#` and has none is a comment then.
    """
    line = line.strip(" \t\r\n")
    is_comment = line.startswith("#") and (has_tabs or _COMMENT.match(line))
    if is_comment and "\t" not in line:
        return [line]
    parts = line.split("\t") if "\t" in line else re.split(" +", line)
    return [part.strip(" ") for part in parts if part.strip(" ")]
