"""What an engine serves by its last description: bundles by name and version, aliases by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from bedplate.bundle.bundle import Bundle, BundleError

DEFAULT = "default"


@dataclass(frozen=True)
class Served:
    """What one engine, or several together, serve."""

    bundles: Mapping[tuple[str, str], Bundle] = field(default_factory=dict)  # by name and version
    aliases: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # name → alias → version
    knows_probes: bool = False  # an engine of an earlier release closes the connection on that priority
    knows_alone: bool = False  # and refuses a prediction that is to be computed alone

    @classmethod
    def from_meta(cls, meta: Mapping[str, Any], content: bytes | memoryview = b"") -> Served:
        """Read a DESCRIPTION frame.

        Raises:
            BundleError: it is invalid.
        """
        models = meta.get("models")
        if not isinstance(models, list) or not all(isinstance(model, dict) for model in models):
            raise BundleError("description: models: is missing or no list of objects")
        files = _files(meta, bytes(content))
        described = [Bundle.from_description(model, files) for model in models]
        bundles = {(bundle.name, bundle.version): bundle for bundle in described}
        # An engine of an earlier release has no aliases: of several versions the first described is the default.
        aliases: dict[str, dict[str, str]] = {}
        for name, version in bundles:
            aliases.setdefault(name, {DEFAULT: version})
        for name, versions in _aliases(meta).items():
            aliases[name] = {**aliases.get(name, {}), **versions}
        return cls(bundles, aliases, meta.get("probes") is True, meta.get("alone") is True)

    def by_alias(self, name: str, alias: str) -> Bundle | None:
        return self.bundles.get((name, self.aliases.get(name, {}).get(alias, "")))

    def versions(self, name: str) -> list[str]:
        return [version for known, version in self.bundles if known == name]

    @property
    def names(self) -> list[str]:
        return list(dict.fromkeys(name for name, _ in self.bundles))


def together(served: Iterable[Served]) -> Served:
    """Merge several; where they differ the first one wins."""
    bundles: dict[tuple[str, str], Bundle] = {}
    aliases: dict[str, dict[str, str]] = {}
    for one in served:
        for key, bundle in one.bundles.items():
            bundles.setdefault(key, bundle)
        for name, versions in one.aliases.items():
            aliases[name] = {**versions, **aliases.get(name, {})}
    return Served(bundles, aliases)


def find(served: Iterable[Served], name: str, wanted: str | None) -> Bundle | None:
    """Return the first bundle with this version, else with this alias. An alias never hides a version of its name."""
    each = list(served)
    if wanted is not None:
        for one in each:
            if bundle := one.bundles.get((name, wanted)):
                return bundle
    for one in each:
        if bundle := one.by_alias(name, DEFAULT if wanted is None else wanted):
            return bundle
    return None


def _files(meta: Mapping[str, Any], content: bytes) -> dict[str, bytes]:
    """By sha256, as the engine wrote them one after another."""
    sizes: dict[str, int] = meta.get("files", {})
    if not isinstance(sizes, dict) or not all(type(size) is int and size > 0 for size in sizes.values()):
        raise BundleError("description: files: wanted {sha256: bytes}")
    files, start = {}, 0
    for sha256, size in sizes.items():
        files[sha256] = content[start : start + size]
        start += size
    if start != len(content):
        raise BundleError(f"description: files: {start} bytes are announced, {len(content)} came")
    return files


def _aliases(meta: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    aliases: dict[str, dict[str, str]] = meta.get("aliases", {})
    ok = isinstance(aliases, dict) and all(
        isinstance(versions, dict) and all(isinstance(version, str) for version in versions.values())
        for versions in aliases.values()
    )
    if not ok:
        raise BundleError("description: aliases: wanted {name: {alias: version}}")
    return aliases
