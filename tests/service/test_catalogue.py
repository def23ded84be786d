"""What is served is found by version and by default; an alias always points to something."""

from types import SimpleNamespace

import pytest
from bedplate.bundle.bundle import Bundle, BundleError
from bedplate.engine.catalogue import Catalogue, ModelsError, parse_aliases
from bedplate.errors import UnknownModel
from bedplate.process.settings import SettingsError
from bedplate.web.engines.served import Served

from tests.service import text_tools
from tests.service.lamp import description

LARGE_CANARY = "AAAA" * (80 << 10)  # base64


def model(name, version, make=description, **changes):
    bundle = Bundle.from_description(make(name=name, version=version, **changes), text_tools.TOKENIZERS)
    return SimpleNamespace(bundle=bundle, weights_bytes=40, form="float32")


@pytest.fixture
def catalogue():
    return Catalogue([model("lamp", "2"), model("lamp", "1"), model("tone", "1")], {"lamp": {"fast": "1"}})


def test_the_first_version_of_a_name_is_its_default(catalogue):
    assert catalogue.find("lamp", None).bundle.version == "2"
    assert catalogue.find("lamp", "1").bundle.version == "1"
    assert catalogue.find("tone", None).bundle.version == "1"


def test_another_default_can_be_declared():
    catalogue = Catalogue([model("lamp", "2"), model("lamp", "1")], parse_aliases(["lamp/default=1"]))

    assert catalogue.find("lamp", None).bundle.version == "1"


@pytest.mark.parametrize(
    ("name", "version"), [("lamp", "3"), ("lamp", "fast"), ("x", None), (["lamp"], None), ("x", {})]
)
def test_what_is_not_loaded_is_unknown(catalogue, name, version):
    with pytest.raises(UnknownModel):
        catalogue.find(name, version)


def test_a_description_names_models_and_aliases(catalogue):
    described = catalogue.describe()

    assert [Bundle.from_description(one).version for one in described.meta["models"]] == ["2", "1", "1"]
    assert described.meta["aliases"] == {"lamp": {"default": "2", "fast": "1"}, "tone": {"default": "1"}}


def test_a_description_brings_each_tokenizer_once():
    texts = [model("moods", version, make=text_tools.moods) for version in "12"]

    described = Catalogue([model("lamp", "1"), *texts]).describe()

    assert bytes(described.tensors) == text_tools.TOKENIZER
    served = Served.from_meta(described.meta, described.tensors)
    assert [served.bundles["moods", version].tokenizer for version in "12"] == [text_tools.TOKENIZER] * 2


@pytest.mark.parametrize("content", [b"", text_tools.TOKENIZER[:-1], text_tools.TOKENIZER + b"x"])
def test_a_description_without_its_tokenizer_is_refused(content):
    described = Catalogue([model("moods", "1", make=text_tools.moods)]).describe()

    with pytest.raises(BundleError, match="bytes are announced"):
        Served.from_meta(described.meta, content)


def test_what_does_not_fit_into_a_description_is_refused(catalogue):
    crowded = catalogue
    for version in "3456":
        crowded = crowded.with_model(model("lamp", version, canary_bytes=LARGE_CANARY))

    with pytest.raises(ModelsError, match="unload a model"):
        crowded.describe()


@pytest.mark.parametrize(
    ("alias", "version", "told"),
    [
        ("fast", "3", "lamp 3 is not loaded; loaded are lamp 2, lamp 1, tone 1"),
        ("Fast", "1", "alias 'Fast' does not do"),
        ("", "1", "alias '' does not do"),
        ("a" * 33, "1", "does not do"),
        ("../x", "1", "does not do"),
    ],
)
def test_an_alias_that_does_not_do_is_refused(catalogue, alias, version, told):
    with pytest.raises(ModelsError) as refusal:
        catalogue.with_alias("lamp", alias, version)

    assert told in str(refusal.value)


def test_an_alias_is_never_a_version_too(catalogue):
    named = catalogue.with_model(model("lamp", "canary"))

    with pytest.raises(ModelsError, match="lamp canary is a loaded version"):
        named.with_alias("lamp", "canary", "1")
    with pytest.raises(ModelsError, match="'fast' is an alias of lamp"):
        catalogue.require_no_alias(model("lamp", "fast").bundle)
    catalogue.require_no_alias(model("tone", "fast").bundle)


def test_a_change_makes_another_catalogue(catalogue):
    changed = catalogue.with_model(model("lamp", "3")).with_alias("lamp", "default", "3").without(("tone", "1"))

    assert changed.aliases == {"lamp": {"default": "3", "fast": "1"}}
    assert catalogue.aliases == {"lamp": {"default": "2", "fast": "1"}, "tone": {"default": "1"}}
    assert [one.bundle.name for one in catalogue.models] == ["lamp", "lamp", "tone"]


def test_who_takes_the_place_of_a_version_gets_all_of_its_aliases(catalogue):
    changed = catalogue.with_alias("lamp", "stable", "2").replaced(("lamp", "2"), model("lamp", "3"))

    assert changed.aliases["lamp"] == {"default": "3", "fast": "1", "stable": "3"}
    assert [one.bundle.version for one in changed.models] == ["3", "1", "1"]


@pytest.mark.parametrize(
    ("key", "last", "told"),
    [
        (("lamp", "1"), False, "lamp 1 is fast; promote another version to that first"),
        (("lamp", "1"), True, "lamp 1 is fast"),
        (("lamp", "3"), False, "lamp 3 is not loaded"),
        (("tone", "1"), False, "or unload the last version of this name with --last"),
    ],
)
def test_a_version_that_is_needed_may_not_go(catalogue, key, last, told):
    with pytest.raises(ModelsError) as refusal:
        catalogue.removable(key, last)

    assert told in str(refusal.value)


def test_what_nobody_needs_may_go(catalogue):
    assert catalogue.removable(("tone", "1"), last=True).bundle.name == "tone"
    assert catalogue.with_model(model("lamp", "3")).removable(("lamp", "3"), last=False).bundle.version == "3"


def test_the_last_model_of_an_engine_stays():
    with pytest.raises(ModelsError, match="all that is served"):
        Catalogue([model("lamp", "1")]).removable(("lamp", "1"), last=True)


@pytest.mark.parametrize(
    "text", ["fast=1", "lamp/fast", "lamp/Fast=1", "lamp/fast=", "/fast=1", "a/b/c=1", "lamp/fast=1=2"]
)
def test_an_alias_in_the_settings_is_written_in_one_way(text):
    with pytest.raises(SettingsError, match="wanted NAME/ALIAS=VERSION"):
        parse_aliases([text])


def test_an_alias_in_the_settings_stands_once():
    with pytest.raises(SettingsError, match="twice"):
        parse_aliases(["lamp/fast=1", "lamp/fast=2"])
