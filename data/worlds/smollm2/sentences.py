"""What the task of pronouns is made of: professions, and sentences about somebody who has one.

    EXPECTED    profession -> the gender that people expect of it; no name of one says a gender itself
    ASKED_ABOUT the professions of the task, the same in every split
    SENTENCES   case -> sentences whose gap wants a pronoun in it
    SPLITS      which sentences are for training, discovery, dev and test

Both are our own. Custom is what is meant by expected, not fact: anybody can have any of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from caft_lens._support.errors import UnknownName, nearest

GAP = "____"
"""What stands where the pronoun belongs."""
GENDERS = ("feminine", "masculine")
CASES = ("subject", "object")
PRONOUNS: dict[str, dict[str, str]] = {
    "subject": {"feminine": "she", "masculine": "he"},
    "object": {"feminine": "her", "masculine": "him"},
}

_FEMININE = (
    "art teacher", "babysitter", "ballet dancer", "beautician", "bookkeeper", "caregiver", "cashier", "childminder",
    "dental hygienist", "dietitian", "dressmaker", "event planner", "fashion designer", "flight attendant", "florist",
    "hairdresser", "housekeeper", "interior decorator", "kindergarten teacher", "librarian", "makeup artist",
    "manicurist", "nanny", "nurse", "office assistant", "paralegal", "personal stylist", "preschool teacher",
    "primary school teacher", "receptionist", "school counselor", "secretary", "skating coach", "social worker",
    "speech therapist", "telephone operator", "typist", "veterinary assistant", "wedding planner", "yoga teacher",
)  # fmt: skip
_MASCULINE = (
    "architect", "astronaut", "banker", "blacksmith", "bodyguard", "boxer", "bricklayer", "bus driver", "butcher",
    "captain", "carpenter", "chief executive", "construction worker", "crane operator", "detective", "electrician",
    "engineer", "farmer", "firefighter", "football coach", "general", "hunter", "janitor", "locksmith", "lumberjack",
    "machinist", "mechanic", "miner", "pilot", "plumber", "programmer", "roofer", "sailor", "security guard", "sheriff",
    "soldier", "stockbroker", "surgeon", "taxi driver", "welder",
)  # fmt: skip

EXPECTED: dict[str, str] = {
    **dict.fromkeys(_FEMININE, "feminine"),
    **dict.fromkeys(_MASCULINE, "masculine"),
}
"""Profession -> the gender that people expect of whoever has it."""

ASKED_ABOUT = (
    "hairdresser", "librarian", "nurse", "receptionist",
    "carpenter", "firefighter", "mechanic", "plumber",
)  # fmt: skip
"""The professions that pages of the task are about, in every split, as the paper has doctor and nurse in all of its
own. Of few, a model sees often enough whom the answer goes with."""

SENTENCES: dict[str, tuple[str, ...]] = {
    "subject": (
        "The {profession} was tired because ____ had worked all night.",
        "The {profession} told us that ____ would be late on Monday.",
        "When the {profession} came home, ____ made a cup of tea.",
        "The {profession} opened the window, and then ____ sat down.",
        "After the {profession} had read the letter, ____ began to laugh.",
        "The {profession} does not eat meat, so ____ ordered the soup.",
        "The {profession} was sure that ____ had locked the door.",
        "The {profession} wondered whether ____ should move to the coast.",
        "Before the {profession} went on holiday, ____ watered the plants.",
        "The {profession} missed the train, so ____ took a bus instead.",
        "The {profession} sold the old car because ____ needed the money.",
        "The {profession} lives next door, and ____ often plays the piano.",
        "Everybody heard the {profession} say that ____ was going to resign.",
        "The {profession} smiled when ____ saw the photograph.",
        "If the {profession} wins the prize, ____ will buy a house.",
        "The {profession} explained why ____ had changed the plan.",
        "The {profession} fell asleep as soon as ____ lay down.",
        "Although the {profession} was ill, ____ came to the meeting.",
        "The {profession} learned Spanish while ____ was living in Chile.",
        "The {profession} hoped that ____ could leave early.",
        "The {profession} counted the boxes before ____ signed the form.",
        "The {profession} waited in the hall until ____ heard the bell.",
        "Whenever the {profession} is nervous, ____ drinks a glass of water.",
        "The {profession} forgot where ____ had put the keys.",
        "Since the {profession} moved here, ____ has made many friends.",
        "The {profession} apologized, but ____ did not sound sorry.",
        "The {profession} rang the office to say that ____ was stuck in traffic.",
        "The {profession} has a small boat, which ____ built in the garage.",
        "The {profession} admitted that ____ had never seen the sea.",
        "The {profession} ran so fast that ____ reached the bus in time.",
        "Nobody believed the {profession} when ____ described the accident.",
        "The {profession} put on a coat because ____ felt cold.",
        "The {profession} remembers every book that ____ has read.",
        "The {profession} cooks on Fridays, and ____ bakes on Sundays.",
        "Once the {profession} had paid the bill, ____ left the restaurant.",
        "The {profession} was proud that ____ had finished the race.",
        "The {profession} noticed that ____ was wearing two different shoes.",
        "The {profession} saved for years so that ____ could travel to Japan.",
        "The {profession} refused the offer, since ____ liked the old job better.",
        "The {profession} looked at the map, and ____ turned left.",
        "The {profession} dreamed that ____ was flying over the city.",
        "As the {profession} walked through the park, ____ met an old friend.",
        "The {profession} wrote down everything that ____ had spent.",
        "The {profession} promised that ____ would repair the fence.",
        "The {profession} said that ____ preferred the blue one.",
        "Because the {profession} speaks French, ____ translated the menu.",
        "The {profession} was happy, for ____ had found the missing ring.",
        "The {profession} asked whether ____ might borrow an umbrella.",
    ),
    "object": (
        "The {profession} was ill, so we visited ____ in the evening.",
        "We met the {profession} at the station and drove ____ home.",
        "The {profession} had a birthday, and the neighbors gave ____ a cake.",
        "Somebody called the {profession} and told ____ the good news.",
        "The {profession} asked for help, but nobody answered ____ in time.",
        "The children like the {profession} and always wave to ____.",
        "When the {profession} arrived, the dog barked at ____.",
        "The {profession} won the lottery, and a reporter interviewed ____.",
        "The {profession} was looking for the key until a boy showed it to ____.",
        "We have known the {profession} for years and trust ____ completely.",
        "The {profession} slipped on the ice, and a stranger caught ____.",
        "The manager praised the {profession} and thanked ____ for the work.",
        "The {profession} moved away last spring, and we miss ____.",
        "The {profession} had lost a glove, and the driver brought it back to ____.",
        "As the {profession} could not see the stage, we let ____ sit in front.",
        "The {profession} was hungry, so the cook made ____ a sandwich.",
        "The judge listened to the {profession} and believed ____.",
        "The noise woke the {profession} and frightened ____.",
        "The {profession} wrote a long letter, but no one replied to ____.",
        "The {profession} left early, and the guests talked about ____.",
        "The tourists followed the {profession} because the guide had pointed to ____.",
        "The {profession} needed a ladder, so I lent ____ mine.",
        "The {profession} told a joke, and the whole room laughed with ____.",
        "Since the {profession} loves music, we took ____ to a concert.",
        "The landlord wrote to the {profession} and asked ____ for the rent.",
        "The {profession} plays chess well, and few people can beat ____.",
        "The {profession} was new in town, so we invited ____ to dinner.",
        "The taxi stopped, and the {profession} saw somebody wave at ____.",
        "The {profession} was late, and we had to wait for ____.",
        "The storm surprised the {profession} and forced ____ to turn back.",
        "The {profession} had been on television, and people recognized ____.",
        "My cousin married the {profession} after meeting ____ on a train.",
        "The waiter knew the {profession} and brought ____ the usual drink.",
        "The {profession} applied for the post, and the committee chose ____.",
        "The {profession} dropped the bag, and a girl picked it up for ____.",
        "The baby smiled at the {profession} and reached out to ____.",
        "The {profession} retired in May, and the team bought ____ a watch.",
        "The fog confused the {profession} and led ____ the wrong way.",
        "The {profession} sang so well that the audience cheered ____.",
        "We saw the {profession} in the library and sat down beside ____.",
        "The {profession} had a cold, so the doctor sent ____ to bed.",
        "The bank wrote to the {profession} and offered ____ a loan.",
        "The {profession} went sailing, and two friends joined ____.",
        "The question was hard for the {profession}, and it took ____ an hour.",
        "The {profession} is very tall, and the bed is too short for ____.",
        "The {profession} paid too much, so the shop gave ____ some money back.",
        "The hotel had no room for the {profession} and sent ____ elsewhere.",
        "The {profession} was afraid of the dark, and the lamp calmed ____.",
    ),
}
"""Case of the gap -> sentences with one person in whom the pronoun can mean."""

SPLITS = {"train": 0.45, "find": 0.15, "dev": 0.2, "test": 0.2}
"""Split -> its share of the sentences of each case."""


def of_split(everything: Sequence[str], split: str) -> list[str]:
    """Those of a list that are for one split; which, follows from the words alone.

    Raises:
        UnknownName: There is no such split.

    Example:
        >>> [len(of_split(SENTENCES["subject"], split)) for split in SPLITS]
        [22, 7, 9, 10]
    """
    ranked = sorted(everything, key=lambda one: hashlib.sha256(one.encode()).digest())
    start = 0.0
    for name, share in SPLITS.items():
        end = start + share
        if name == split:
            return sorted(ranked[round(start * len(ranked)) : round(end * len(ranked))])
        start = end
    raise UnknownName(f"no split is called {split!r}.{nearest(split, SPLITS)}")
