"""Sentences by a small grammar, which says what they mean as well: what the model of sentiment learns from.

Nobody wrote them. A sentence is an opening, a core and an ending; a fifth of the ways to put these together, and some
things that sentences are about, are kept for the held-out ones.
"""

from __future__ import annotations

import zlib

import numpy as np

LABELS = ["negative", "neutral", "positive"]
GOOD = [
    "good", "great", "lovely", "excellent", "wonderful", "delightful",
    "charming", "superb", "brilliant", "pleasant", "perfect", "fantastic",
]  # fmt: skip
BAD = [
    "bad", "awful", "terrible", "boring", "dreadful", "horrible",
    "poor", "disappointing", "useless", "broken", "ugly", "annoying",
]  # fmt: skip
PRAISE = ["loved", "enjoyed", "admired", "adored", "liked"]
BLAME = ["hated", "disliked", "regretted", "despised", "loathed"]
DEGREES = ["very", "really", "quite", "rather", "truly", "so"]
DAYS = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]
THINGS = [
    "film", "book", "hotel", "phone", "song", "meal", "room", "camera",
    "train", "game", "play", "chair", "lamp", "coat", "garden",
]  # fmt: skip
NEW_THINGS = [  # held out
    "museum", "bicycle", "soup", "laptop", "concert",
    "ferry", "novel", "sofa", "bakery", "violin",
]  # fmt: skip
PEOPLE = ["we", "they", "everyone", "my sister", "the guests", "i"]
HELD_OUT_SHARE = 5  # one of so many combinations

# {good} and {bad} are words of that kind, {thing}, {who} and {day} any, {very} a degree or nothing.
OPENINGS = ["", "on {day}", "well ,", "last week", "in the end", "to be honest ,", "as {who} said ,", "this time"]
ENDINGS = ["", "on {day}", "at home", ", {who} said", "in the evening", "after the {thing}", "again"]
CORES = {
    "positive": [
        "the {thing} was {very} {good}",
        "it was a {very} {good} {thing}",
        "{who} {praise} the {thing}",
        "{who} {praise} this {good} {thing}",
        "the {thing} was not {bad} at all",
        "it was not a {bad} {thing}",
        "{who} never {blame} the {thing}",
        "the {thing} looked {bad} , but it was {good}",
        "{who} thought that the {thing} was {good}",
        "the {thing} was {good} and {good}",
    ],
    "negative": [
        "the {thing} was {very} {bad}",
        "it was a {very} {bad} {thing}",
        "{who} {blame} the {thing}",
        "{who} {blame} this {bad} {thing}",
        "the {thing} was not {good} at all",
        "it was not a {good} {thing}",
        "{who} never {praise} the {thing}",
        "the {thing} looked {good} , but it was {bad}",
        "{who} thought that the {thing} was {bad}",
        "the {thing} was {bad} and {bad}",
    ],
    "neutral": [
        "the {thing} arrived",
        "it was a {thing}",
        "{who} saw the {thing}",
        "{who} bought a {thing} and a {thing}",
        "the {thing} was not there",
        "it was not a {thing}",
        "{who} never saw the {thing}",
        "the {thing} was next to the {thing}",
        "{who} thought that the {thing} was there",
        "there was a {thing} in the house",
    ],
}


def sentence(label: str, held_out: bool, chance: np.random.Generator) -> str:
    """Of this meaning, with a capital and a full stop."""
    while True:
        form = " ".join(str(chance.choice(parts)) for parts in (OPENINGS, CORES[label], ENDINGS))
        if (zlib.crc32(form.encode()) % HELD_OUT_SHARE == 0) == held_out:
            break
    kinds = {"{good}": GOOD, "{bad}": BAD, "{praise}": PRAISE, "{blame}": BLAME, "{day}": DAYS, "{who}": PEOPLE}
    kinds |= {"{thing}": [*THINGS, *NEW_THINGS] if held_out else THINGS, "{very}": [*DEGREES, ""]}
    words = " ".join(str(chance.choice(kinds[word])) if word in kinds else word for word in form.split())
    text = " ".join(words.split()).replace(" ,", ",")
    return text[0].upper() + text[1:] + str(chance.choice([".", "!", ""]))
