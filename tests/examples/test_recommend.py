"""The example keeps its word: better than popularity, and through the whole path what it was offline."""

import csv
import http.client
import json

import pytest
import torch
from bedplate.optimize import check

from examples.common import run
from examples.recommend import train as recommend
from examples.recommend.interactions import HAD, ITEMS, NEXT, USERS, draw
from tests.service.running_service import KEY, running_service


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    """All that the example writes."""
    folder = tmp_path_factory.mktemp("build")
    torch.set_num_threads(run.THREADS)
    recommend.make(folder)
    return folder


def labels_in(build, name):
    """By customer."""
    with (build / "examples" / "recommend" / "heldout" / name).open() as file:
        return {row["file"].removesuffix(".json"): row["label"] for row in csv.DictReader(file)}


def test_each_user_has_had_an_item_once():
    had = draw(recommend.SEED)

    assert had.shape == (USERS, HAD)
    assert (had >= 0).all()
    assert (had < ITEMS).all()
    assert all(len(set(row)) == HAD for row in had.tolist())


def test_what_comes_next_was_never_learnt_from_nor_suggested_already(build):
    had = draw(recommend.SEED)
    for version, known in recommend.KNOWN.items():
        assert known <= HAD - NEXT
        suggested = labels_in(build, f"predictions-{version}.csv").values()
        assert len(suggested) == recommend.ASKED
        for items, seen in zip(suggested, had[: recommend.ASKED, :known], strict=True):
            assert not set(items.split("|")) & {recommend.NAMES[place] for place in seen}


@pytest.mark.parametrize("version", recommend.KNOWN)
def test_the_bundle_keeps_its_word_and_finds_as_many_as_numpy(build, version):
    directory = build / "bundles" / "recommend" / version
    bundle, model = check.load(directory, "float32")
    had, known = draw(recommend.SEED), recommend.KNOWN[version]
    users, items = (getattr(model._module, name).numpy() for name in ("users", "items"))

    found = check.measure(bundle, directory, model)

    assert found.items == USERS * NEXT
    assert found.share == pytest.approx(recommend.hit_rate(users @ items.T, had[:, :known], had[:, -NEXT:]), abs=1e-3)
    assert found.suffices
    assert check.canary_answer(bundle, model) == bundle.canary.wanted


def test_it_is_better_than_what_is_most_popular():
    had = draw(recommend.SEED)
    seen, upcoming = had[:, : recommend.KNOWN["1"]], had[:, -NEXT:]

    assert recommend.hit_rate(recommend.popularity(seen), seen, upcoming) < recommend.THRESHOLDS["1"] / 2


def test_through_the_whole_path_comes_what_was_suggested_offline(build, tmp_path):
    expected = labels_in(build, "predictions-2.csv")
    with running_service(tmp_path, bundle=build / "bundles" / "recommend" / "2") as service:
        connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=30)
        for start in range(0, recommend.ASKED, 50):
            asked = [{"user": user, "k": recommend.K} for user in recommend.CUSTOMERS[start : start + 50]]
            headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
            connection.request("POST", "/v1/models/recommend/predict", json.dumps({"inputs": asked}), headers)
            for one in json.load(connection.getresponse())["predictions"]:
                assert "|".join(found["item"] for found in one["items"]) == expected[one["user"]]
        connection.close()
