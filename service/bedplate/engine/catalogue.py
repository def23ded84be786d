"""What an engine serves: models by name and version, and the aliases that clients use.

A catalogue is immutable. Loading, unloading or promoting makes a new one, and the server switches to it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from bedplate import wire
from bedplate.bundle.bundle import Bundle, describe, files_beside
from bedplate.engine.work import Key, key_of
from bedplate.errors import UnknownModel
from bedplate.process.settings import SettingsError
from bedplate.wire import Frame, FrameError, Type

if TYPE_CHECKING:
    # What reads the settings' aliases need not load torch.
    from bedplate.engine.model import Model

DEFAULT = "default"  # the alias of who asks for no version; every name has it
Aliases = Mapping[str, Mapping[str, str]]  # name → alias → version
_ALIAS = r"[a-z][a-z0-9-]{0,31}"
_SETTING = re.compile(rf"(?P<name>[^/=]+)/(?P<alias>{_ALIAS})=(?P<version>[^/=]+)")
_PRINTABLE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class ModelsError(Exception):
    """A change of what is served that cannot be made. The message says what is served, and names the next step."""


class Catalogue:
    """Loaded models in their order, with the aliases of each name.

    Args:
        aliases: each name also has "default", its first version unless this says otherwise.

    Raises:
        ModelsError: an alias points to nothing, or has the name of a version.
    """

    def __init__(self, models: Iterable[Model], aliases: Aliases | None = None):
        self.models = tuple(models)
        self._by_key = {key_of(model): model for model in self.models}
        self.aliases: dict[str, dict[str, str]] = {}
        for name, version in self._by_key:
            self.aliases.setdefault(name, {DEFAULT: version})
        for name, theirs in (aliases or {}).items():
            self.aliases.setdefault(name, {}).update(theirs)
        for name, theirs in self.aliases.items():
            for alias, version in theirs.items():
                self._check_alias(name, alias, version)

    def get(self, key: Key) -> Model | None:
        return self._by_key.get(key)

    def find(self, name: object, version: object) -> Model:
        """Return the model that a request names; without a version, the default one.

        Raises:
            UnknownModel: it is not loaded.
        """
        try:
            if version is None:
                version = self.aliases[name][DEFAULT]  # type: ignore[index]  # any JSON value may have come
            return self._by_key[name, version]  # type: ignore[index]
        except (KeyError, TypeError):
            shown = name if isinstance(name, str) and _PRINTABLE_NAME.fullmatch(name) else None
            raise UnknownModel(
                "the model or its version is not loaded", value=shown, next_step="see GET /v1/models"
            ) from None

    def default_of(self, name: str) -> Model | None:
        return self._by_key.get((name, self.aliases.get(name, {}).get(DEFAULT, "")))

    def removable(self, key: Key, last: bool) -> Model:
        """Return the model of `key` if nothing needs it; with `last` its aliases may go too.

        Raises:
            ModelsError: it is not loaded, or it is needed.
        """
        name, version = key
        model = self._by_key.get(key)
        if model is None:
            raise self._not_loaded(name, version)
        if len(self.models) == 1:
            raise ModelsError(f"{name} {version} is all that is served; load another model first")
        is_last = sum(other == name for other, _ in self._by_key) == 1
        if (aliases := self.aliases_of(key)) and not (is_last and last):
            also = ", or unload the last version of this name with --last" if is_last else ""
            raise ModelsError(f"{name} {version} is {', '.join(aliases)}; promote another version to that first{also}")
        return model

    def require_no_alias(self, bundle: Bundle) -> None:
        """Check that the bundle's version is not an alias of its name.

        Raises:
            ModelsError: it is one.
        """
        if bundle.version in self.aliases.get(bundle.name, {}):
            raise ModelsError(
                f"{bundle.name} {bundle.version}: '{bundle.version}' is an alias of {bundle.name}; give the bundle "
                "another version"
            )

    def aliases_of(self, key: Key) -> list[str]:
        name, version = key
        return sorted(alias for alias, target in self.aliases.get(name, {}).items() if target == version)

    def with_model(self, model: Model) -> Catalogue:
        return Catalogue([*self.models, model], self.aliases)

    def without(self, key: Key) -> Catalogue:
        """Return a catalogue without the model and its aliases. The caller checks beforehand that it is removable."""
        name, version = key
        kept = {alias: target for alias, target in self.aliases[name].items() if target != version}
        models = [model for model in self.models if key_of(model) != key]
        others = {other: theirs for other, theirs in self.aliases.items() if other != name}
        return Catalogue(models, {**others, name: kept} if kept else others)

    def with_alias(self, name: str, alias: str, version: str) -> Catalogue:
        return Catalogue(self.models, {**self.aliases, name: {**self.aliases.get(name, {}), alias: version}})

    def replaced(self, old: Key, model: Model) -> Catalogue:
        """Return a catalogue in which `model`, another version, takes the place of `old` and all its aliases."""
        name, version = key_of(model)
        moved = {alias: version if target == old[1] else target for alias, target in self.aliases[name].items()}
        models = [model if key_of(other) == old else other for other in self.models]
        return Catalogue(models, {**self.aliases, name: moved})

    def describe(self) -> Frame:
        """Return a DESCRIPTION frame. Its bytes are tokenizers and large canaries, each once, in the order of 'files'.

        Raises:
            ModelsError: the description does not fit into one frame.
        """
        bundles = [model.bundle for model in self.models]
        files = {sha256: content for bundle in bundles for sha256, content in files_beside(bundle).items()}
        meta = {
            "models": [describe(bundle) for bundle in bundles],
            "aliases": self.aliases,
            "probes": True,
            "alone": True,
            "files": {sha256: len(content) for sha256, content in files.items()},
        }
        description = Frame(Type.DESCRIPTION, 0, meta, b"".join(files.values()))
        try:
            wire.encode(description)
        except FrameError as error:
            raise ModelsError(
                f"too much to describe in one frame ({error}); use smaller canaries, or unload a model"
            ) from None
        return description

    def _check_alias(self, name: str, alias: str, version: str) -> None:
        if not re.fullmatch(_ALIAS, alias):
            raise ModelsError(f"alias {alias!r} does not do, wanted {_ALIAS}, as 'fast' or 'canary'")
        if (name, alias) in self._by_key:
            raise ModelsError(f"{name} {alias} is a loaded version, so it cannot be an alias; choose another name")
        if (name, version) not in self._by_key:
            raise self._not_loaded(name, version)

    def _not_loaded(self, name: str, version: str) -> ModelsError:
        loaded = ", ".join(f"{name} {version}" for name, version in self._by_key)
        return ModelsError(f"{name} {version} is not loaded; loaded are {loaded or 'none'}")


def parse_aliases(texts: Iterable[str]) -> dict[str, dict[str, str]]:
    """Parse the settings' NAME/ALIAS=VERSION, by name.

    Raises:
        SettingsError: an entry has another form, or appears twice.
    """
    aliases: dict[str, dict[str, str]] = {}
    for text in texts:
        match = _SETTING.fullmatch(text)
        if not match:
            raise SettingsError(f"aliases: {text!r} does not do, wanted NAME/ALIAS=VERSION, as digits/fast=2")
        theirs = aliases.setdefault(match["name"], {})
        if match["alias"] in theirs:
            raise SettingsError(f"aliases: {text!r} gives {match['name']}/{match['alias']} twice; remove one")
        theirs[match["alias"]] = match["version"]
    return aliases
