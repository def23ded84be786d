"""A fleet with gpu1 and gpu2 that site.yml built, as in tests/fleet: molecule's, or the one BEDPLATE_FLEET names."""

from tests.fleet.conftest import fleet, tree

__all__ = ["fleet", "tree"]
