"""Which bundles a host serves: of those on the control machine the declared ones, and of those on the host the others.

A bundle is NAME/VERSION throughout, and a declaration is that or a NAME, which stands for all of its versions.
"""

from __future__ import annotations

import json
import os
import re

MODELS = "/var/lib/bedplate/models"
BUNDLE = re.compile(r"[^/.][^/]*/[^/.][^/]*")
ALIAS = re.compile(r"([^/=]+)/[a-z][a-z0-9-]{0,31}=([^/=]+)")


def selection(declared, manifests, directory):
    """What the inventory declares, beside what there is.

    Args:
        declared: [NAME or NAME/VERSION].
        manifests: {files: [{path}]}, as the module `find` found SHA256SUMS below `directory`.

    Returns:
        {served, missing}. `served`: the bundles, in the order of the declaration, and the highest version of a name
        first. `missing`: declarations that no bundle is there for.
    """
    folders = (os.path.relpath(os.path.dirname(file["path"]), directory) for file in manifests["files"])
    there = sorted((folder for folder in folders if folder.count("/") == 1), key=str.lower, reverse=True)
    served = _once(bundle for word in declared for bundle in there if word in (bundle, _name(bundle)))
    known = {*served, *map(_name, served)}
    return {"served": served, "missing": _once(word for word in declared if word not in known)}


def aliased(aliases):
    """The bundle that each NAME/ALIAS=VERSION points to; an entry that is written otherwise stays as it is."""
    return [ALIAS.sub(r"\1/\2", alias) if ALIAS.fullmatch(alias) else alias for alias in aliases]


def undeclared(on_host, served, answer):
    """What is on the host and not declared: {withdrawn, by_hand}.

    Args:
        on_host: lines, of which bundles count; `served`: [NAME/VERSION].
        answer: {rc, stdout} of a question to the engine. What it has loaded all the same was loaded by hand. While it
            cannot be asked (rc is not 0) nobody knows that, and nothing is withdrawn.
    """
    others = sorted((line for line in on_host if BUNDLE.fullmatch(line) and line not in served), key=str.lower)
    if answer["rc"] != 0:
        return {"withdrawn": [], "by_hand": []}
    loaded = {"/".join(model["directory"].split("/")[-2:]) for model in json.loads(answer["stdout"])["models"]}
    return {
        "withdrawn": [bundle for bundle in others if bundle not in loaded],
        "by_hand": [bundle for bundle in others if bundle in loaded],
    }


def unread(programs, named):
    """Names of the bundles that bring programs, {bundle: [sum]}, and are not among the named ones."""
    return [name for name in _once(map(_name, programs)) if name not in named]


def sums(programs):
    """The sums of all programs that may run."""
    return sorted({each for of_bundle in programs.values() for each in of_bundle})


def signature_files(signatures):
    """Files of a host for `host_files`, of {bundle: signature}."""
    attributes = {"group": "bedplate-engine", "mode": "0640"}
    return [
        {"path": f"{MODELS}/{bundle}/SHA256SUMS.sig", "content": text, **attributes}
        for bundle, text in signatures.items()
    ]


def rsync_filter(served):
    """Options by which rsync copies these directories and nothing else; what it excludes it does not delete either."""
    names = [f"--include=/{name}/" for name in _once(map(_name, served))]
    return ["--exclude=SHA256SUMS.sig", *names, *(f"--include=/{bundle}/***" for bundle in served), "--exclude=*"]


def _name(bundle):
    return bundle.rpartition("/")[0]


def _once(words):
    return list(dict.fromkeys(words))


class FilterModule:
    def filters(self):
        return {
            "bedplate_aliased": aliased,
            "bedplate_rsync_filter": rsync_filter,
            "bedplate_selection": selection,
            "bedplate_signature_files": signature_files,
            "bedplate_sums": sums,
            "bedplate_undeclared": undeclared,
            "bedplate_unread": unread,
        }
