"""Made-up customers of a made-up shop: who has had what. No package ships such data, so it is drawn, and says so.

A customer likes a few of the genres, some more than others; an item is of one genre and more or less popular. What a
customer takes next is chance, by both. So taste can be learnt, and popularity alone is a fair opponent.
"""

from __future__ import annotations

import numpy as np

USERS, ITEMS, GENRES = 3000, 800, 16
HAD = 40  # items of each user
NEXT = 3  # those that come after the rest: what a recommendation ought to guess
_TASTE = 0.12  # small: few genres each
_TAIL = 0.7  # how fast popularity falls from item to item


def draw(seed: int) -> np.ndarray:
    """(USERS, HAD) places of items, each once, in the order in which the user took them."""
    chance = np.random.default_rng(seed)
    popularity = chance.permutation(1 / np.arange(1, ITEMS + 1) ** _TAIL)
    genre = chance.integers(GENRES, size=ITEMS)
    taste = chance.dirichlet(np.full(GENRES, _TASTE), size=USERS) + 0.003
    weight = taste[:, genre] * popularity  # (USERS, ITEMS)
    # The largest of log(weight) + Gumbel noise are drawn without repetition, by weight.
    drawn = np.log(weight) + chance.gumbel(size=weight.shape)
    return np.argsort(-drawn, axis=1)[:, :HAD]


def matrix(had: np.ndarray) -> np.ndarray:
    """(users, items) float32: 1 where the user has had the item."""
    found = np.zeros((len(had), ITEMS), np.float32)
    np.put_along_axis(found, had, 1, axis=1)
    return found
