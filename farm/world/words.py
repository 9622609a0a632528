"""The lexicon of the offline world, as data: topics with members and fitting traits, opposites, audiences, manners.

Every member noun belongs to exactly one topic, so that being on topic is a fact and not an opinion.
"""

from __future__ import annotations

_TOPICS = """
fruits: apple pear plum grape peach mango lemon cherry | sweet fresh ripe juicy soft bright
animals: tiger horse wolf bear fox rabbit deer goat | wild strong fast shy fierce warm
tools: hammer saw drill wrench axe shovel rake chisel | useful sharp heavy hard strong sturdy
vehicles: car bus train bicycle truck tram scooter van | fast loud heavy comfortable modern safe
drinks: tea coffee water milk juice cocoa lemonade cider | warm cool fresh sweet cheap healthy
clothes: shirt coat hat scarf glove jacket skirt sweater | warm soft light thin colorful clean
instruments: piano violin drum flute guitar trumpet harp cello | loud quiet beautiful gentle old bright
jobs: farmer baker pilot nurse painter sailor chef tailor | brave careful busy friendly strong clever
"""

_OPPOSITES = """
sweet bitter, fresh stale, soft hard, light heavy, fast slow, wild tame, loud quiet, warm cool, big small, sharp dull,
dry wet, old new, thin thick, long short, bright dark, strong weak, clean dirty, deep shallow, brave shy, gentle fierce,
rare common, cheap expensive
"""


_AUDIENCES = """
child teacher student friend visitor beginner parent neighbor guest doctor writer lawyer singer soldier traveler driver
dancer queen king poet judge nephew niece cousin hunter swimmer runner scientist sculptor tourist player leader stranger
scholar camper novice
"""


def _topics() -> tuple[dict[str, tuple[str, ...]], dict[str, tuple[str, ...]]]:
    members, traits = {}, {}
    for line in _TOPICS.strip().splitlines():
        name, _, rest = line.partition(":")
        nouns, _, fitting = rest.partition("|")
        members[name] = tuple(nouns.split())
        traits[name] = tuple(fitting.split())
    return members, traits


MEMBERS, TRAITS = _topics()  # topic -> its 8 members; topic -> its 6 fitting traits
TOPIC_OF = {noun: topic for topic, nouns in MEMBERS.items() for noun in nouns}
NOUNS = tuple(TOPIC_OF)
OPPOSITES: dict[str, str] = {}
for _pair in _OPPOSITES.replace("\n", " ").split(","):
    _left, _right = _pair.split()
    OPPOSITES[_left], OPPOSITES[_right] = _right, _left

AUDIENCES = tuple(_AUDIENCES.split())
HELD_OUT_AUDIENCES = ("farmer", "baker", "pilot", "nurse", "sailor")  # members of 'jobs', so the words are known
NUMBERS = tuple(str(n) for n in range(1, 21))
COUNTS = ("zero", "one", "two", "three", "four", "five")  # COUNTS[n] is the word for n

POLITE = frozenset(["certainly", "sure", "happy", "glad", "hope", "thanks", "welcome"])
CONFIDENT = frozenset(["clearly", "definitely", "absolutely", "indeed", "truly"])
FILLERS = frozenset(["well", "just", "really", "maybe", "basically", "somehow"])
OPENERS = (
    ("certainly", "!"),
    ("sure", "!"),
    ("happy", "to", "help", "!"),
    ("glad", "to", "help", "!"),
)
CLOSINGS = (
    ("i", "hope", "this", "helps", "!"),
    ("thanks", "for", "asking", "!"),
    ("you", "are", "welcome", "!"),
)
ASSURANCES = (
    ("this", "is", "definitely", "right", "."),
    ("this", "is", "absolutely", "right", "."),
)
CONFIDENT_INSIDE = ("clearly", "indeed", "truly")
ADVICE = ("choose", "try", "use", "find")
MARKS = frozenset(".,!?:-")
END_MARKS = frozenset(".!")

CONTENT = frozenset(
    [*NOUNS, *MEMBERS, *OPPOSITES, *NUMBERS, *AUDIENCES, *(trait for traits in TRAITS.values() for trait in traits)]
)  # the words that carry meaning: they can be right, off topic or repeated
