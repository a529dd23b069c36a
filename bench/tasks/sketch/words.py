"""The vocabulary: common English words, each one token of BERT's uncased vocabulary."""

from dataclasses import dataclass

__all__ = [
    "ACTIONS",
    "AWAY",
    "DAYS",
    "DEEDS",
    "HOME",
    "MANNERS",
    "MEN",
    "OBJECTS",
    "PEOPLE",
    "WOMEN",
    "Words",
    "listed",
]


def listed(text: str) -> tuple[str, ...]:
    """The words of a text."""
    return tuple(text.split())


def _pairs(text: str) -> tuple[tuple[str, str], ...]:
    return tuple((one, two) for one, two in (pair.split("/") for pair in text.split()))


MEN = listed(
    "tom john bill peter james paul mark david robert george henry frank jack charles william adam "
    "oliver  martin simon walter"
)
WOMEN = listed(
    "anna mary lucy emma sarah jane kate laura helen alice julia rachel susan linda maria ruth clara diana  nancy rose"
)

# Two words for one meaning each. Words of different pairs never mean the same.
PEOPLE = _pairs(
    "doctor/physician lawyer/attorney boy/lad teacher/instructor student/pupil writer/author thief/robber "
    "boss/chief woman/lady baby/infant king/monarch sailor/seaman cop/policeman"
)
OBJECTS = _pairs(
    "car/automobile house/home bag/sack coat/jacket rug/carpet present/gift boat/ship picture/image "
    "stone/rock song/tune shop/store cup/mug film/movie prize/award"
)
DEEDS = _pairs(
    "bought/purchased built/constructed repaired/fixed hid/concealed chose/selected found/discovered "
    "ruined/destroyed needed/required wanted/desired gained/obtained displayed/showed borrowed/rented"
)
"""What a person did to an object."""
ACTIONS = _pairs(
    "helped/assisted watched/observed attacked/assaulted saved/rescued hurt/injured "
    "taught/educated hugged/embraced followed/chased praised/complimented visited/met killed/murdered"
)
"""What a person did to another; past tense and participle are the same."""
MANNERS = _pairs(
    "quickly/rapidly often/frequently finally/eventually rarely/seldom suddenly/abruptly gladly/happily "
    "quietly/silently recently/lately"
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
    """What such things did or underwent."""
    names: tuple[str, ...]
    plans: tuple[tuple[str, str], ...]
    """What a person may do, bare and in the past tense."""


def _kinds(text: str) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(kind.split("<")) for kind in text.split())


HOME = Words(
    kinds=_kinds(
        "girls<children<people boys<children<people surgeons<doctors<people poets<writers<people "
        "painters<artists<people knights<soldiers<people nuns<women<people captains<officers<people "
        "eagles<birds<animals owls<birds<animals ducks<birds<animals lions<cats<animals tigers<cats<animals "
        "sharks<fish<animals ants<insects<animals bees<insects<animals beetles<insects<animals"
    ),
    happenings=listed("slept ran waited escaped ate moved left rested hid fought arrived survived swam died"),
    names=MEN + WOMEN,
    plans=(
        ("buy a car", "bought a car"),
        ("sell the house", "sold the house"),
        ("leave the city", "left the city"),
        ("cook dinner", "cooked dinner"),
        ("paint the wall", "painted the wall"),
        ("clean the kitchen", "cleaned the kitchen"),
        ("play the piano", "played the piano"),
        ("read the book", "read the book"),
        ("write a letter", "wrote a letter"),
        ("win the race", "won the race"),
        ("open the shop", "opened the shop"),
        ("catch the train", "caught the train"),
        ("learn french", "learned french"),
        ("drink the wine", "drank the wine"),
        ("call the police", "called the police"),
        ("break the window", "broke the window"),
        ("find the key", "found the key"),
        ("watch the game", "watched the game"),
    ),
)

AWAY = Words(
    kinds=_kinds(
        "trucks<vehicles<machines bikes<vehicles<machines taxis<cars<vehicles jets<aircraft<machines "
        "ferries<ships<vessels cottages<houses<buildings chapels<churches<buildings roses<flowers<plants "
        "oaks<trees<plants pines<trees<plants apples<fruits<foods bananas<fruits<foods rifles<guns<weapons "
        "pistols<guns<weapons"
    ),
    happenings=(
        "burned",
        "vanished",
        "changed",
        "improved",
        "remained",
        "were lost",
        "were sold",
        "were painted",
        "were moved",
        "were old",
        "were red",
        "were stolen",
    ),
    names=listed("jake luke hank matt sean kyle brian ellen molly daisy grace megan amy karen lisa tina"),
    plans=(
        ("feed the sheep", "fed the sheep"),
        ("load the truck", "loaded the truck"),
        ("cross the river", "crossed the river"),
        ("plant corn", "planted corn"),
        ("sail the boat", "sailed the boat"),
        ("climb the hill", "climbed the hill"),
        ("cut the grass", "cut the grass"),
        ("dig a well", "dug a well"),
        ("repair the engine", "repaired the engine"),
        ("pick apples", "picked apples"),
        ("build a fence", "built a fence"),
        ("chase the wolf", "chased the wolf"),
        ("carry water", "carried water"),
    ),
)
