"""Parses a text that holds a list, for example a CSV cell that pandas wrote from a column of lists."""

from __future__ import annotations

import ast
import io
import json
import re
import tokenize
from typing import Any

from frostline.errors import DataError

_LIKE_A_LIST = re.compile(r"\[\s*(?:['\"\]]|-?[0-9]|(?i:true|false)\b)|\(\s*['\"]")
"""A bracket and a text, a number or the other bracket: `[PAD]` is a word."""

_CLOSING = {"[": "]", "(": ")", "{": "}"}

_LONGEST = 100_000
"""Longest text that is parsed, in characters: the memory of a parser grows with the nesting."""


def list_in(text: str) -> list[Any] | None:
    """Returns the items of the list in a text, or None if the text holds no list.

    The text is parsed, never evaluated.

    Args:
        text: As `["a", "b"]`, `['a', 'b']` or `('a', 'b')`.

    Raises:
        DataError: The text starts and ends like a list, but is not a list of strings and numbers.
    """
    text = text.strip()
    if not (_LIKE_A_LIST.match(text) and text.endswith(_CLOSING[text[0]])):
        return None
    if len(text) > _LONGEST:
        raise DataError(f"a list of {len(text)} characters in a text")
    for parse in (json.loads, _literal):
        try:
            items = parse(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError, tokenize.TokenError):
            continue
        if isinstance(items, (list, tuple)) and all(isinstance(each, (str, int, float)) for each in items):
            return list(items)
    raise DataError(f'{text[:60]!r} starts and ends like a list, but is not one like ["a", "b"]')


def refuse_bare_list(text: str) -> None:
    """Refuses a text of words that looks like a list without quotes: `[O, B-X]`, `O, B-X`, `{O,B-X}`.

    Raises:
        DataError: It does.
    """
    parts = text.split()
    is_in_brackets = len(text) > 1 and _CLOSING.get(text.strip()[:1]) == text.strip()[-1:]
    is_in_brackets = is_in_brackets and re.search(r"[^\s,],", text) is not None
    if is_in_brackets or (len(parts) > 1 and all(len(part) > 1 and part.endswith(",") for part in parts[:-1])):
        raise DataError(f'{text[:60]!r} looks like a list; write it as ["a", "b"], or with blanks alone')


def _literal(text: str) -> Any:
    """Returns what a Python literal stands for.

    Raises:
        ValueError: It is none, or texts stand side by side in it, as numpy prints them: Python would make them one.
    """
    before = None
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.STRING and before == tokenize.STRING:
            raise ValueError("texts without a comma between them")
        if token.type not in {tokenize.NL, tokenize.NEWLINE, tokenize.COMMENT}:
            before = token.type
    return ast.literal_eval(text)
