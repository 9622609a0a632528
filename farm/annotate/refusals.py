"""Whether an answer without verdict is a refusal to judge, rather than one that merely says nothing usable."""

from __future__ import annotations

import re

_HEAD = 400  # characters: whoever declines says so at once
_NOT = (
    r"can't|can ?not|could not|won't|will not|unable|not able|not going to|not comfortable|decline|refuse"
    r"|(?:must|have to) (?:decline|refuse|pass)|would rather not|prefer not to"
    r"|(?:do not|don't) (?:wish|want|feel comfortable)"
    r"|(?:not|am not) (?:permitted|allowed)|prohibited"
)
_REFUSES = re.compile(
    r"(?:^|[.!?\n,;:]\s*|\bbut |\bso |\band )(?:"
    r"(?:(?:i'm|i am|we're|we are) )?(?:(?:very|so|really|truly) )?sorry\b|(?:my )?apolog(?:ies|y)\b"
    r"|(?:i|we) (?:must |do )?apologi[sz]e|(?:i'm|i am) afraid\b|i(?:'m| am) an ai\b|declined\b|no comment\b"
    r"|(?:unfortunately |regrettably |therefore |however )?(?:i|we)(?:'m| am|'re| are|'d| would| must)?"
    rf" (?:(?:really|simply|just|also|respectfully|politely|kindly|therefore) )*(?:{_NOT})\b"
    r"|i'd rather not\b|as an? (?:\w+ ){0,2}(?:ai|language model|assistant|llm)\b"
    r"|i (?:do not|don't) (?:have|hold) (?:any )?(?:personal )?(?:opinion|preference|view|feeling)"
    r"|i have no (?:personal )?(?:opinion|preference)"
    r"|(?:this|these|the|both|one)\b[^.\n]{0,60}\b(?:violates?|against) [^.\n]{0,30}\b(?:polic|guideline)"
    r"|(?:it|this|that) (?:would be|is) (?:inappropriate|unethical|not appropriate|against my)"
    r"|my (?:guidelines|policies|programming) (?:do|does|don't|prohibit|prevent|forbid)"
    r"|(?:request|judge?ment|evaluation) (?:refused|declined|denied)"
    r")|\b(?:can't|can ?not|unable to|not able to) (?:assist|help|comply|fulfil?l|engage|participate)\b"
    r"|^\W*(?:lo siento|lo lamento|es tut mir leid|leider kann|ich kann (?:\w+ )?nicht|je suis désolée?|désolée?"
    r"|je ne peux pas|mi dispiace|desculpe|sinto muito|извините|к сожалению|抱歉|对不起|很抱歉|對不起|我无法|我不能"
    r"|申し訳|すみません|죄송)",
    re.IGNORECASE,
)


def is_refusal(text: str) -> bool:
    """Whether the first words decline: the judge cannot, will not or may not judge, or has no opinion to give."""
    return _REFUSES.search(text[:_HEAD].replace("’", "'").replace("*", "").strip()) is not None
