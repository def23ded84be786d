"""The trees of a TreeEnsemble operator of ONNX: each a tree, and none so deep that its reader runs out of stack."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

# onnxruntime reads a tree by recursion: one of 100,000 levels ends its process.
_MAX_DEPTH = 1000
_IDS = ("nodes_treeids", "nodes_nodeids", "nodes_truenodeids", "nodes_falsenodeids")


def check_trees(ids: Mapping[str, Sequence[int]], modes: Sequence[bytes]) -> None:
    """
    Args:
        ids: the attributes of _IDS, a number for each node.
        modes: b"LEAF" where a node has no children.

    Raises:
        ValueError: says what is wrong.
    """
    trees, nodes, yes, no = (ids.get(name, ()) for name in _IDS)
    if not {len(nodes), len(yes), len(no), len(modes)} == {len(trees)} or not trees:
        raise ValueError(f"{', '.join(_IDS)} and nodes_modes are of different lengths, or empty")
    places = {key: at for at, key in enumerate(zip(trees, nodes, strict=True))}
    if len(places) != len(trees):
        raise ValueError("two nodes of a tree have the same number")
    children = {
        at: (places.get((tree, yes[at])), places.get((tree, no[at])))
        for at, tree in enumerate(trees)
        if modes[at] != b"LEAF"
    }
    level = list({tree: places[tree, node] for tree, node in reversed(list(zip(trees, nodes, strict=True)))}.values())
    seen = set(level)
    for _ in range(_MAX_DEPTH):
        below = [child for at in level for child in children.get(at, ())]
        if None in below:
            raise ValueError("a node has a child that is none of its tree's")
        if len(set(below)) != len(below) or not seen.isdisjoint(below):
            raise ValueError("a node has two parents, or goes round in a circle")
        level = [child for child in below if child is not None]
        seen.update(level)
        if not level:
            break
    else:
        raise ValueError(f"a tree is deeper than {_MAX_DEPTH}")
    if len(seen) != len(trees):
        raise ValueError("no node leads to one of them")
