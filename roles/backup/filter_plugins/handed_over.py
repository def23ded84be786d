"""Keys that one host hands over and another host believes. Whoever took a host over writes them."""

from __future__ import annotations

import base64
import re

from ansible.errors import AnsibleFilterError

# Type, base64 and a comment, in one line. Of 51 bytes, so that base64 needs no padding.
LINE = re.compile(r"(?P<key>ssh-ed25519 (?P<base64>[A-Za-z0-9+/]{68}))( [^\r\n]*)?")
# Lengths and name of the type, before the 32 bytes of the key.
HEAD = b"\0\0\0\x0bssh-ed25519\0\0\0\x20"
SHOWN_CHARACTERS = 120


def ed25519_key(text, host, path, may_be_missing=False):
    """`ssh-ed25519 BASE64` and nothing else of what `host` has in its file `path`.

    Args:
        may_be_missing: whether an empty text is let through, as in a dry run of a new host.

    Raises:
        AnsibleFilterError: for options, a second line, a key of another type, or anything else.
    """
    if may_be_missing and text == "":
        return ""
    found = LINE.fullmatch(text)
    if not found or not base64.b64decode(found["base64"]).startswith(HEAD):
        raise AnsibleFilterError(
            f"{host} handed over {text[:SHOWN_CHARACTERS]!r} ({len(text)} characters) as {path}; wanted is one line, "
            f"ssh-ed25519 and 68 characters of base64. Find out on {host} who wrote that file. If nobody but you can "
            "have done so, put the right one there, or remove it together with its private key, and run the playbook "
            "again."
        )
    return found["key"]


class FilterModule:
    def filters(self):
        return {"ed25519_key": ed25519_key}
