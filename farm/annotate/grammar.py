"""What counts as a verdict in words: one small grammar, built for the two labels of a reply format.

    statement = [lead-in] label [tail] (end | remark)

A statement stands at the start of a line. The lead-in and the tail are stock phrases ("My verdict is", "is better
than Output (b)"); the label is the reply format's own, with or without brackets and noun; a remark is whatever follows
a full stop, comma, dash, bracket or "because". A statement without remark is strong. Nothing else is a verdict: not a
label inside prose, not the first letter that happens to fit. All patterns are linear in the length of the text.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

_NOUN = "output|response|answer|option|text|reply|candidate|assistant|model|choice|version|solution|completion"
_ACT = f"{_NOUN}|verdict|decision|pick|preference|judge?ment|winner|result|selection|label|rating|conclusion|vote|entry"
_DEGREE = (
    "clearly|slightly|much|far|definitely|marginally|overall|somewhat|significantly|considerably|simply|by far|the"
)
_LEADS = (
    r"(?:so|thus|therefore|hence|overall|in conclusion|in summary|in short|ultimately|finally|all in all|in the end"
    r"|on balance|after careful consideration|based on (?:this|that|the above)|given (?:this|that))\s*[,:]?\s+",
    r"(?:sure|certainly|of course|okay|ok|alright|understood|yes)\s*[,.!:]\s*",
    r"(?:it is|it's|that is|that's|it would be)\s+",
    r"i(?:'d| would|'ll| will| have to| must)?\s+(?:definitely |still )?(?:think|believe|say|judge|choose|chose|pick"
    r"|picked|prefer|select|selected|take|vote for|go with|go for|opt for|favou?r)(?:\s+that|\s*:)?\s+",
    rf"(?:(?:my|the|final|overall|preferred|better|best|winning|chosen|selected)\s+){{0,4}}(?:{_ACT}|better|best"
    r"|preferred|better one|preferred one)(?:\s+(?:of the two|overall|here))?"
    r"\s*(?:is|was|would be|goes to|:|=|->|=>|→|[-–—](?=\s))\s*(?:[:=→]\s*)?",
    r"(?:my |the )?(?:final )?(?:verdict|decision|winner|better|preferred|entry)\s+",
    r"(?:definitely|clearly|certainly|obviously|undoubtedly|easily)\s*[,:]?\s+",
)
_REASON = r"(?:because|since|as it|due to|for its|for being|thanks to)\b"
_RETRACTS = re.compile(
    r"(?:^|[.!?;,\n]\s*|\bbut )(?:no(?:[,:!]|\.(?!\s*\d)| wait)|wait\b|actually,|hmm|oops|correction\b|sorry,|rather,"
    r"|not really|on (?:second thought|reflection)|let me (?:reconsider|correct|rethink|revise))"
    r"|(?:^|[.!?\n]\s*)(?:edit|update|revised)\b|my mistake|i was wrong|i (?:now|would now) prefer"
    r"|just (?:kidding|joking)|scratch that"
    r"|i (?:meant|mean|take (?:it|that) back)\b|changed? my (?:mind|answer|verdict|choice)"
    r"|\bit(?:'s| is) (?:really |actually )?(?:a tie|a draw|a toss-up)\b|on second thought",
    re.IGNORECASE,
)
# What may follow a label and a comma: a reason or an emphasis. Anything else makes the label part of a sentence, as do
# a clause that the sentence goes on after ("Output (b), though short, is wrong") and what belittles the label itself.
_ADDS = re.compile(
    r"(?:because|since|for|due|it|it's|its|definitely|clearly|certainly|obviously|easily|no|but|by|thanks|simply|mainly"
    r"|mostly|primarily|hands|i|i'd|given|based|overall|this|that's|as|while|whereas|although|though|even|despite|not|if"
    r")\b",
    re.IGNORECASE,
)
_GOES_ON = re.compile(r"(?:and|or|nor|as (?:opposed|well|usual|expected)|too|also)\b", re.IGNORECASE)
_SUBORDINATE = re.compile(r"(?:as|while|whereas|although|though|even|despite|not|if)\b", re.IGNORECASE)
_PREDICATE = re.compile(r",\s+(?:\w+ly\s+)?(?:is|was|has|does|\w+s|\w+ed)\b", re.IGNORECASE)
_BELITTLES = re.compile(
    r"\b(?:incorrect|wrong|worse|worst|weaker|inferior|loses|lost|fails|failed|lacks|lacking|misses|missing|inaccurate"
    r"|irrelevant|off-topic|incomplete|bad|poor|unhelpful|rejected|false|flawed|mistaken)\b",
    re.IGNORECASE,
)
_POSITIONS = re.compile(
    r"\b(?P<p>first|second|former|latter)(?:\s+(?:one|two|" + _NOUN + r"))?\s+(?:is|was|would be)\s+"
    rf"(?:(?:{_DEGREE})\s+){{0,3}}(?:better|best|preferable|superior|stronger|winner)\b"
    r"|\b(?:prefer|choose|pick|go with)\s+(?:the\s+)?(?P<q>first|second|former|latter)\b",
    re.IGNORECASE,
)
_HEADING = re.compile(
    rf"(?:(?:my|the|final|overall|short)\s+){{0,2}}(?:{_ACT}|reason|reasoning|rationale|explanation|justification"
    r"|analysis|comparison)s?\s*:?",
    re.IGNORECASE,
)
_QUOTES = str.maketrans({"“": "", "”": "", "„": "", "«": "", "»": "", '"': "", "*": "", "`": "", "$": "",
                         "‘": "'", "’": "'", "。": ". ", "、": ", ", "\u200b": "", "\ufeff": ""})  # fmt: skip
_SPECIAL = re.compile(r"<\|[^|<>\n]{1,30}\|>|</?s>|<(?:start|end)_of_turn>|<eos>|\[/?INST\]")
_FENCE = re.compile(r"^[ \t]*(?:```|~~~)(?:[a-z0-9+#-]{2,20})?[ \t]*$", re.MULTILINE)
_LATEX = re.compile(r"\\(?:boxed|text|textbf|mathbf|mathrm)\s*\{([^{}]*)\}")
_TAG = re.compile(
    r"</?(?:final_?)?(?:answer|verdict|output|response|result|choice|decision|judge?ment|winner|label|final"
    r"|p|b|strong|em|i|li|ol|ul|code|pre|br)\s*/?>",
    re.IGNORECASE,
)
_UNDERLINE = re.compile(r"(?<!\w)_+|_+(?!\w)")
_THINKING = r"(?:think|thinking|thought|reasoning|reflection|scratchpad|analysis)"
_OPENED, _CLOSED = (re.compile(rf"<{slash}{_THINKING}>", re.IGNORECASE) for slash in ("", "/"))
_CHANNEL, _FINAL, _MESSAGE = "<|channel|>", "<|channel|>final", "<|message|>"
_MARKS = re.compile(r"(?:[\s>•·▪◦‣→⇒➡►▶|~+–—-]|\#{1,6}\s)*")
_PLAIN = re.compile(r"[\x20-\x21\x23\x25-\x29\x2b-\x3b\x3d\x3f-\x5b\x5d-\x5e\x61-\x7e\n]*")  # nothing to clean up


@dataclass(frozen=True)
class Statement:
    """A verdict in words; ``remark`` is what follows it on its line, and a strong one has none."""

    first: bool
    remark: str

    @property
    def strong(self) -> bool:
        return not self.remark


class Grammar:
    """Statements about two labels. ``nouns`` are words that may stand before a label besides the usual ones.

    Where the labels differ by case only, case matters in the label and nowhere else.
    """

    def __init__(
        self, first: str, second: str, also_first: Sequence[str] = (), also_second: Sequence[str] = ()
    ) -> None:
        self.cores = core(first), core(second)
        self.case_matters = first.casefold() == second.casefold()
        written = (first, second, *also_first, *also_second)
        nouns = {w.rpartition(" ")[0].casefold() for w in written if " " in w and core(w) in self.cores}
        noun = "|".join([*map(re.escape, sorted(nouns)), _NOUN])
        one, two = (self._label(c, also, noun) for c, also in zip(self.cores, (also_first, also_second), strict=True))
        self._sides = tuple(self._compile(rf"(?:{side})") for side in (one, two))
        lead = "|".join(_LEADS)
        choice = rf"(?:(?P<first>{one})|(?P<second>{two}))"
        any_label = rf"(?:{one}|{two})"
        tail = (
            rf"\s+(?i:is|was|would be|seems|looks)\s+(?i:(?:{_DEGREE})\s+){{0,3}}(?i:better|best|preferable|preferred"
            rf"|superior|stronger|winner|my (?:choice|pick|preference|winner|favou?rite))"
            rf"(?:\s+(?i:one|choice|overall|here|of the two|of the {noun}s|{noun})){{0,2}}"
            rf"(?:\s+(?i:than|to|over)\s+(?:(?i:the other(?: one|\s+(?:{noun}))?)|(?P<other>{any_label})))?"
            rf"|\s+(?i:wins)(?:\s+(?i:overall|here))?(?:\s+over\s+(?P<beaten>{any_label}))?"
            rf"|\s+(?i:over|rather than|instead of|not)\s+(?P<rest>{any_label})"
            rf"|\s*>{{1,2}}\s*(?P<less>{any_label})"
        )
        self._statement = self._compile(
            rf"(?i:{lead}){{0,4}}{choice}(?P<tail>{tail})?"
            rf"(?P<end>\s*[.!…]*\s*$|(?P<mark>\s*[.!;,]+\s+|\s+-+\s+|\s*[–—]\s*|\s*[(|]|\s+(?i:{_REASON}))(?P<remark>.*))"
        )
        # A claim made in passing: "Output (b) is better.", "I prefer Output (b)". Only ever used against a verdict.
        self._claim = self._compile(
            rf"(?<!\w){choice}\s+(?i:is|was|would be|seems)\s+(?i:(?:{_DEGREE})\s+){{0,3}}(?i:better|best|preferable"
            rf"|preferred|superior|stronger|winner)(?=\s*(?:[.!,;)]|$)|\s+(?i:than|overall|one|here|because|{noun})\b)"
        )
        self._praise = self._compile(
            rf"(?<!\w)(?i:prefer|choose|pick|go with|select|vote for|should be|(?:answer|verdict|winner|choice|better"
            rf" one|better (?:{noun})|decision) is)\s*:?\s+{choice}(?=\s*(?:[.,;!)]|$)|\s+(?i:{_REASON}|over\b))"
        )

    def _compile(self, pattern: str) -> re.Pattern[str]:
        return re.compile(pattern, 0 if self.case_matters else re.IGNORECASE)

    def _label(self, core: str, also: Sequence[str], noun: str) -> str:
        """Pattern of one label: its core, in brackets or not, after a noun or not; ordinals may have one behind."""
        c = re.escape(core)
        boxed = rf"(?:\[\[{c}\]\]|\(?{c}\)|\[{c}\]|\{{{c}\}}|<{c}>|'{c}'|{c}(?!\w))"
        behind = rf"(?:\s+(?i:one|{noun})(?!\w))?" if core.casefold() in ("first", "second") else ""
        forms = [r"\s+".join(map(re.escape, form.split())) + r"(?!\w)" for form in also]
        return "|".join([rf"(?i:the\s+)?(?:(?i:{noun})(?:\s+\#?|\#|(?=[\[({{<'])))?{boxed}{behind}", *forms])

    def side(self, label: str) -> tuple[bool, bool]:
        """Whether a text is a way to write the first label, and whether the second."""
        one, two = (pattern.fullmatch(clean(label).strip()) is not None for pattern in self._sides)
        return one, two

    def statement(self, line: str) -> Statement | None:
        """The verdict that a line starts with. ``line`` is one of :func:`lines`."""
        m = self._statement.match(line)
        if m is None:
            return None
        first = m["first"] is not None
        for rival in (m["other"], m["beaten"], m["rest"], m["less"]):
            if rival is not None and self._sides[0 if first else 1].fullmatch(rival):
                return None  # "Output (a) is better than Output (a)"
        remark = (m["remark"] or "").strip()
        if remark and not self._remarks(m, remark, first):
            return None
        return Statement(first, remark or ("" if m["mark"] is None else m["mark"].strip()))

    def _remarks(self, m: re.Match[str], remark: str, first: bool) -> bool:
        """Whether what follows a label is a remark on the verdict, and not the rest of a sentence about the label."""
        mark, label = m["mark"].strip(), m["first" if first else "second"].strip()
        if m["tail"] is not None or mark.casefold() in ("because", "since", "as it"):
            return True
        ordinal = label.casefold() in ("first", "second")  # "First, both are polite" is a way of speaking
        if _GOES_ON.match(remark) or (label.isdigit() and "." in mark) or (ordinal and "," in mark):
            return False
        if "," in mark and not _ADDS.match(remark):
            return False
        if _SUBORDINATE.match(remark) and _PREDICATE.search(remark):
            return False
        closed = remark.partition(")")[2].lstrip()
        if (mark == "(" and closed[:1].isalnum()) or (mark[:1] in "-–—" and re.search(r"\s[-–—]+\s", remark)):
            return False
        low = _BELITTLES.search(remark[:80])
        if low is None:
            return True
        before = remark[: low.start()]
        other = self._sides[1 if first else 0]
        return "other" in before.casefold() or any(other.match(before, k) for k in _word_starts(before))

    def against(self, text: str) -> set[bool]:
        """Verdicts that remarks after a verdict express, to be held against it; both when it is taken back."""
        if _RETRACTS.search(text):
            return {True, False}
        said = {m["first"] is not None for p in (self._claim, self._praise) for m in p.finditer(text)}
        said |= {(m["p"] or m["q"]).casefold() in ("first", "former") for m in _POSITIONS.finditer(text)}
        for line in lines(text):
            if (s := self.statement(line)) is not None:
                said.add(s.first)
        return said


def _word_starts(text: str) -> list[int]:
    return [m.start() for m in re.finditer(r"(?<!\w)[\w(\[]", text)]


def core(label: str) -> str:
    """What tells two labels apart: the last word without brackets and quotes."""
    return label.rpartition(" ")[2].strip("()[]\"'")


def answer_only(text: str) -> str:
    """The text without reasoning: nothing before the last closing tag of a reasoning block, nothing of an open one."""
    if _CHANNEL in text:  # the harmony format: only the final channel is addressed to the reader
        final = text.rfind(_FINAL)
        text = text[final:].partition(_MESSAGE)[2] if final >= 0 else ""
    end = 0
    for closed in _CLOSED.finditer(text):
        end = closed.end()
    text = text[end:]
    opened = _OPENED.search(text)
    return text[: opened.start()] if opened else text


def clean(text: str) -> str:
    """An answer without markup: emphasis, quotes, code fences, LaTeX boxes, answer tags and special tokens go,
    full-width forms become plain ones."""
    text = answer_only(text)
    if _PLAIN.fullmatch(text) and "INST]" not in text:
        return text
    text = unicodedata.normalize("NFKC", _FENCE.sub("", _SPECIAL.sub("\n", text)))
    text = _LATEX.sub(r"\1", _LATEX.sub(r"\1", text))
    return _UNDERLINE.sub("", _TAG.sub("", text).translate(_QUOTES))


def lines(text: str) -> list[str]:
    """The lines of a cleaned text that say something: no headings, rules and fences; see :func:`bare`."""
    found = (bare(line) for line in text.splitlines())
    return [line for line in found if any(map(str.isalnum, line)) and not _HEADING.fullmatch(line)]


def bare(line: str) -> str:
    """A line without bullet, heading mark, table bars and pictograms around it, and without brackets around it all."""
    line = _MARKS.sub("", line, count=1).rstrip(" \t|")
    start = 0
    while start < len(line) and unicodedata.category(line[start]) in _PICTURES:
        start += 1
    if start:
        line = _MARKS.sub("", line[start:], count=1)
    if line[:1] in _BRACKETS and line[-1] == _BRACKETS[line[0]] and line[0] not in line[1:-1].partition(line[-1])[2]:
        inner = line[1:-1]
        if inner.count(line[0]) == inner.count(line[-1]) and inner.find(line[-1]) >= inner.find(line[0]) - 1:
            return inner.strip()
    return line


_PICTURES = ("So", "Sk", "Mn", "Cf")
_BRACKETS = {"(": ")", "[": "]", "{": "}", "<": ">"}
