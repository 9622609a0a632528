"""What a text looks like, as far as it can sway a judge before a word is read: how long it is, whether it is a list."""

from __future__ import annotations

import re

_MARKER = re.compile(r"(?:^|\s)(?:[-*\u2022]|\(?\d{1,2}\s?[.)])(?=\s)")


def looks_like_list(text: str) -> bool:
    """Whether a text holds at least two list markers (bullets or numbers such as ``1.`` or ``2)``)."""
    return len(_MARKER.findall(text)) >= 2


def relative_length(first: str, second: str) -> float:
    """How much longer ``first`` is, in [-1, 1]: the difference in characters over the sum; 0 for two empty texts."""
    total = len(first) + len(second)
    return (len(first) - len(second)) / total if total else 0.0
