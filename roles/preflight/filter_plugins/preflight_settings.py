"""Which settings of a host the report is told of, and what other roles would refuse."""

from __future__ import annotations


def read(named, services, manuals):
    """Names of the settings whose form is asked, or that are compared with each other, each once.

    Args:
        named: [name]; `services`: names of the fleet's, whose ports count.
        manuals: the defaults of roles, whose numbers and switches count.
    """
    ports = [f"fleet_{name}" for name in services]
    numbers = [name for manual in manuals for name, value in manual.items() if isinstance(value, bool | int | float)]
    return list(dict.fromkeys([*named, *ports, *numbers]))


def given(settings, names):
    """{name: value} of those that the inventory sets."""
    return {name: settings[name] for name in names if name in settings}


def reasons(supported):
    """{name: why it is refused} of {name: a number where it is not, or why}."""
    return {name: why for name, why in supported.items() if isinstance(why, str)}


def refusing(releases):
    """{release: why it is refused} of {release: {refused?: why}}."""
    return {name: release["refused"] for name, release in releases.items() if "refused" in release}


class FilterModule:
    def filters(self):
        return {
            "preflight_given": given,
            "preflight_read": read,
            "preflight_reasons": reasons,
            "preflight_refusing": refusing,
        }
