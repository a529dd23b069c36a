"""The vocabulary: common English words, each one token of BERT's uncased vocabulary."""

from dataclasses import dataclass


def listed(text: str) -> tuple[str, ...]:
    """Return the words of a text."""
    return tuple(text.split())


def phrases(text: str) -> tuple[str, ...]:
    """Return the phrases of a text, separated by commas."""
    return tuple(text.split(", "))


def pairs(text: str) -> tuple[tuple[str, str], ...]:
    """Return the pairs of a text such as `one/two, three/four`."""
    return tuple((one, two) for one, two in (pair.split("/") for pair in phrases(text)))


MEN = listed(
    "tom john bill peter james paul mark david robert george henry frank jack charles william adam "
    "oliver martin simon walter"
)
WOMEN = listed(
    "anna mary lucy emma sarah jane kate laura helen alice julia rachel susan linda maria ruth clara diana nancy rose"
)

# Pairs of synonyms; words of different pairs never mean the same.
PEOPLE = pairs(
    "doctor/physician, lawyer/attorney, boy/lad, teacher/instructor, student/pupil, writer/author, thief/robber, "
    "boss/chief, woman/lady, baby/infant, king/monarch, sailor/seaman, cop/policeman"
)
OBJECTS = pairs(
    "car/automobile, house/home, bag/sack, coat/jacket, rug/carpet, present/gift, boat/ship, picture/image, "
    "stone/rock, song/tune, shop/store, cup/mug, film/movie, prize/award"
)
DEEDS = pairs(
    "bought/purchased, built/constructed, repaired/fixed, hid/concealed, chose/selected, found/discovered, "
    "ruined/destroyed, needed/required, wanted/desired, gained/obtained, displayed/showed, borrowed/rented"
)
"""Verbs for a person and an object."""
ACTIONS = pairs(
    "helped/assisted, watched/observed, attacked/assaulted, saved/rescued, hurt/injured, "
    "taught/educated, hugged/embraced, followed/chased, praised/complimented, visited/met, killed/murdered"
)
"""Verbs for two persons; past tense and participle are the same."""
MANNERS = pairs(
    "quickly/rapidly, often/frequently, finally/eventually, rarely/seldom, suddenly/abruptly, gladly/happily, "
    "quietly/silently, recently/lately"
)


DAYS = (
    *(f"on {day}" for day in listed("monday tuesday wednesday thursday friday saturday sunday")),
    *(f"in {season}" for season in listed("spring summer autumn winter")),
    "last week",
    "last month",
)


@dataclass(frozen=True)
class Words:
    """Vocabulary of one domain, for the inference tasks."""

    kinds: tuple[tuple[str, ...], ...]
    """Plural nouns from narrow to wide: all owls are birds, all birds are animals."""
    happenings: tuple[str, ...]
    """Predicates of such nouns in the past tense."""
    names: tuple[str, ...]
    plans: tuple[tuple[str, str], ...]
    """Verb phrases of a person, bare and in the past tense."""


def _kinds(text: str) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(kind.split("<")) for kind in text.split())


def _plans(text: str) -> tuple[tuple[str, str], ...]:
    """Return both forms of phrases such as `buy/bought a car`."""
    parts = (plan.partition(" ") for plan in phrases(text))
    return tuple(
        (f"{bare} {rest}", f"{past} {rest}") for (bare, past), rest in ((v.split("/"), r) for v, _, r in parts)
    )


HOME = Words(
    kinds=_kinds(
        "girls<children<people boys<children<people surgeons<doctors<people poets<writers<people "
        "painters<artists<people knights<soldiers<people nuns<women<people captains<officers<people "
        "eagles<birds<animals owls<birds<animals ducks<birds<animals lions<cats<animals tigers<cats<animals "
        "sharks<fish<animals ants<insects<animals bees<insects<animals beetles<insects<animals"
    ),
    happenings=listed("slept ran waited escaped ate moved left rested hid fought arrived survived swam died"),
    names=MEN + WOMEN,
    plans=_plans(
        "buy/bought a car, sell/sold the house, leave/left the city, cook/cooked dinner, paint/painted the wall, "
        "clean/cleaned the kitchen, play/played the piano, read/read the book, write/wrote a letter, "
        "win/won the race, open/opened the shop, catch/caught the train, learn/learned french, drink/drank the wine, "
        "call/called the police, break/broke the window, find/found the key, watch/watched the game"
    ),
)

AWAY = Words(
    kinds=_kinds(
        "trucks<vehicles<machines bikes<vehicles<machines taxis<cars<vehicles jets<aircraft<machines "
        "ferries<ships<vessels cottages<houses<buildings chapels<churches<buildings roses<flowers<plants "
        "oaks<trees<plants pines<trees<plants apples<fruits<foods bananas<fruits<foods rifles<guns<weapons "
        "pistols<guns<weapons"
    ),
    happenings=phrases(
        "burned, vanished, changed, improved, remained, were lost, were sold, were painted, were moved, were old, "
        "were red, were stolen"
    ),
    names=listed("jake luke hank matt sean kyle brian ellen molly daisy grace megan amy karen lisa tina"),
    plans=_plans(
        "feed/fed the sheep, load/loaded the truck, cross/crossed the river, plant/planted corn, "
        "sail/sailed the boat, climb/climbed the hill, cut/cut the grass, dig/dug a well, "
        "repair/repaired the engine, pick/picked apples, build/built a fence, chase/chased the wolf, "
        "carry/carried water"
    ),
)
