"""Recommendations: what a bundle has to be, what the engine computes, the whole path with a new version under load."""

from __future__ import annotations

import concurrent.futures
import http.client
import json
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from bedplate.bundle.bundle import Bundle, read_bundle
from bedplate.bundle.recommendation import names_as_bytes, questions, suggestions_in
from bedplate.bundle.strict_yaml import BundleError
from bedplate.engine.containment import Containment
from bedplate.engine.model import Model
from bedplate.errors import OutOfRange, UnknownUser
from bedplate.optimize import check

from tests.service.lamp import recommending
from tests.service.models_tools import serving_engine
from tests.service.running_service import KEY, running_web
from tests.service.shop import FACTORS, ITEMS, SEEN, USERS, best_of, write_shop

CPU = torch.device("cpu")


def load(directory):
    return Model.load(read_bundle(directory), directory, CPU)


def suggested(model, *asked):
    """Names and scores of each question."""
    answers = suggestions_in(model.run(questions(asked)))
    return [[(one["item"].decode(), float(one["score"])) for one in row if one["item"]] for row in answers]


def as_pairs(items):
    return [(one["item"], one["score"]) for one in items]


@pytest.mark.parametrize("include_seen", [True, False])
@pytest.mark.parametrize("user", [0, 1, 2])
def test_the_best_items_come_first_without_those_that_the_user_has_had(tmp_path, user, include_seen):
    [found] = suggested(load(write_shop(tmp_path)), (USERS[user], 3, include_seen))

    assert found == as_pairs(best_of(user, 3, include_seen))


def test_users_are_answered_together_as_each_alone(tmp_path):
    model = load(write_shop(tmp_path))
    asked = [(user, k, seen) for user in USERS for k in (1, 2, 3) for seen in (True, False)]

    assert suggested(model, *asked[:8]) == [suggested(model, one)[0] for one in asked[:8]]


def test_where_all_has_been_had_nothing_is_left(tmp_path):
    every = {"offsets": torch.tensor([0, 5, 5, 5]), "items": torch.arange(5, dtype=torch.int32)}

    assert suggested(load(write_shop(tmp_path, seen=every)), ("ann", 3, False)) == [[]]


def test_a_bundle_may_be_without_what_was_seen(tmp_path):
    changes = {"recommendation": {"users": "users.json", "items": "items.json", "max_k": 3}}

    assert suggested(load(write_shop(tmp_path, seen=None, **changes)), ("ann", 2, False)) == [
        as_pairs(best_of(0, 2, include_seen=True))
    ]


def test_it_answers_as_numpy_does_for_many_users(tmp_path):
    chance = np.random.default_rng(3)
    users, items = chance.normal(size=(500, 8)).astype("f4"), chance.normal(size=(300, 8)).astype("f4")
    names = [f"u{number}" for number in chance.permutation(500)]
    directory = write_shop(
        tmp_path,
        factors={"users": torch.from_numpy(users), "items": torch.from_numpy(items)},
        users=names,
        items=[f"i{number}" for number in range(300)],
        seen={"offsets": torch.zeros(501, dtype=torch.int64), "items": torch.zeros(0, dtype=torch.int32)},
    )
    model = load(directory)

    for row in range(0, 500, 25):
        [found] = suggested(model, (names[row], 3, False))
        assert [name for name, _ in found] == [f"i{place}" for place in np.argsort(-(items @ users[row]))[:3]]


def test_a_user_that_is_not_known_is_named_with_its_place(tmp_path):
    model = load(write_shop(tmp_path))

    for name in ("zoë", "", "an", "ann.", "chloé of a long name and more", "~" * 64):
        with pytest.raises(UnknownUser, match=r"inputs\[1\]: user ") as caught:
            model.require_known(questions([("ann", 1, False), (name, 1, False)]))
        assert caught.value.value == (name or None)
    model.require_known(questions([(name, 1, False) for name in USERS]))


@pytest.mark.parametrize("k", [0, -1, 4, 1 << 30])
def test_how_many_are_asked_for_as_bytes_is_looked_at_too(tmp_path, k):
    with pytest.raises(OutOfRange, match=rf"inputs\[0\].k: {k} is out of range, 1 to 3"):
        load(write_shop(tmp_path)).require_known(questions([("ann", k, False)]))


def test_scores_that_are_not_finite_are_the_fault_of_their_user_alone(tmp_path):
    factors = {"users": FACTORS["users"].clone(), "items": FACTORS["items"] * 1e30}
    factors["users"][2] = 1e30
    model = load(write_shop(tmp_path, factors=factors))

    asked = questions([(user, 3, True) for user in USERS])
    outcome = Containment(model.run, lambda: False).compute(asked)

    assert list(outcome.faults) == [2]
    assert suggestions_in(outcome.outputs)["item"][0, 0].decode() == "GU10"


def test_what_it_holds_beside_its_factors_counts(tmp_path):
    model = load(write_shop(tmp_path))

    factors = sum(tensor.nbytes for tensor in FACTORS.values())
    assert model.weights_bytes == factors + 3 * (21 + 4) + 5 * 15 + 4 * 8 + 6 * 4


INT = {"offsets": SEEN["offsets"], "items": SEEN["items"]}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"users": USERS[:2]}, "users.json: does not do, wanted a JSON list of 3 names"),
        ({"users": [*USERS[:2], "ann"]}, "users.json: has 'ann' twice"),
        ({"users": [*USERS[:2], ""]}, "users.json: name 2, '', does not do, wanted a text of 1 to 64 bytes"),
        ({"users": [*USERS[:2], "x" * 65]}, "users.json: name 2, 'x+', does not do"),
        ({"users": [*USERS[:2], "\t"]}, r"users.json: name 2, '\\t', does not do"),
        ({"users": [*USERS[:2], 3]}, "users.json: name 2, '3', does not do"),
        ({"users": [*USERS[:2], "\ud800"]}, "users.json: name 2, .* does not do"),
        ({"users": b'["ann", "bj\xf6rn", "chloe"]'}, "users.json: does not do"),
        ({"users": b"[" * 1000}, "users.json: does not do"),
        ({"users": [*USERS[:2], "x" * 5000]}, "users.json: is larger than 1178 bytes"),
        ({"items": ITEMS[:4]}, "items.json: does not do, wanted a JSON list of 5 names"),
        ({"factors": {"users": FACTORS["users"]}}, r"holds \['users'\], wanted the tensors 'users' and 'items'"),
        ({"factors": FACTORS | {"items": torch.ones(5, 3)}}, r"'items' is float32 \[5, 3\], wanted float32"),
        ({"factors": FACTORS | {"users": torch.ones(3, 2, dtype=torch.float64)}}, r"'users' is float64 \[3, 2\]"),
        ({"factors": FACTORS | {"users": torch.full((3, 2), torch.nan)}}, "'users' holds values that are not finite"),
        ({"seen": INT | {"offsets": torch.tensor([0, 2, 2])}}, r"seen.safetensors: does not do, wanted 'offsets'"),
        ({"seen": INT | {"offsets": torch.tensor([0, 2, 1, 6])}}, "seen.safetensors: does not do"),
        ({"seen": INT | {"offsets": torch.tensor([1, 2, 2, 6])}}, "seen.safetensors: does not do"),
        ({"seen": INT | {"offsets": torch.tensor([0, 2, 2, 5])}}, "seen.safetensors: does not do"),
        ({"seen": INT | {"items": torch.full((6,), 5, dtype=torch.int32)}}, "seen.safetensors: does not do"),
        ({"seen": INT | {"items": torch.full((6,), -1, dtype=torch.int32)}}, "seen.safetensors: does not do"),
        ({"seen": INT | {"items": SEEN["items"].long()}}, "seen.safetensors: does not do"),
        ({"seen": {"items": SEEN["items"]}}, r"holds \['items'\], wanted the tensors 'offsets' and 'items'"),
        (
            {"recommendation": {"users": "users.json", "items": "items.json", "max_k": 6}, "seen": None},
            "recommendation.max_k: 6 does not do, wanted at most 5",
        ),
        (
            {"recommendation": {"users": "nobody.json", "items": "items.json", "max_k": 3}},
            "recommendation.users: 'nobody.json' does not do, wanted a file of the bundle",
        ),
    ],
)
def test_a_bundle_whose_parts_do_not_go_together_is_refused(tmp_path, changes, told):
    with pytest.raises(BundleError, match=told):
        load(write_shop(tmp_path, **changes))


def test_more_scores_than_memory_is_meant_for_are_refused(tmp_path):
    many = {"users": torch.ones(1, 1), "items": torch.ones(1_000_000, 1)}
    items = [f"i{number}" for number in range(1_000_000)]

    plain = {"users": "users.json", "items": "items.json", "max_k": 3}

    with pytest.raises(BundleError, match=r"batch.max_items: 512 does not do, wanted at most 268"):
        load(
            write_shop(
                tmp_path,
                factors=many,
                users=["ann"],
                items=items,
                seen=None,
                recommendation=plain,
                batch={"max_items": 512},
            )
        )


def validated(expected, k=1, **changes):
    tensors = {
        "inputs": torch.from_numpy(questions([(user, k, False) for user in USERS])),
        "expected": torch.from_numpy(names_as_bytes(expected)),
    }
    validation = {"file": "validation.safetensors", "metric": "hit-rate", "threshold": 0.5}
    return {"files": {"validation.safetensors": tensors | changes}, "validation": validation}


@pytest.mark.parametrize(("k", "right"), [(1, 2), (2, 3)])
def test_the_hit_rate_is_the_share_of_items_that_are_among_the_suggested(tmp_path, k, right):
    directory = write_shop(tmp_path, **validated(["GU10", "卓上ランプ", "GU10"], k))
    bundle, model = check.load(directory, "float32")

    assert check.canary_answer(bundle, model) == bundle.canary.wanted == "GU10"
    assert check.measure(bundle, directory, model).share == right / 3


def test_a_validation_set_that_asks_for_somebody_else_is_told(tmp_path):
    stranger = torch.from_numpy(questions([("zoë", 1, False)] * 3))
    directory = write_shop(tmp_path, **validated(["GU10"] * 3, inputs=stranger))
    bundle, model = check.load(directory, "float32")

    with pytest.raises(BundleError, match=r"validation.safetensors: inputs\[0\]: user 'zoë' is not known"):
        check.measure(bundle, directory, model)


def test_a_canary_that_nobody_knows_is_told(tmp_path):
    directory = write_shop(tmp_path, users=["a", "b", "c"])

    with pytest.raises(BundleError, match=r"canary.file: canary.json gets no answer \(inputs\[0\]: user 'ann'"):
        check.canary_answer(*check.load(directory, "float32"))


@pytest.mark.parametrize(
    ("key", "value"),
    [("labels", ["a"]), ("inputs", []), ("outputs", []), ("network", ["relu"]), ("activation", "none")],
)
def test_keys_of_networks_are_not_known_to_it(key, value):
    with pytest.raises(BundleError, match=f"{key}: unknown key"):
        Bundle.from_description(recommending(**{key: value}))


# The whole path: an engine, a front end in a process of its own.


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shop")
    limits = {"cache": {"ttl_s": 1800}, "request": {"max_bytes": 2000}}
    first = write_shop(folder / "models" / "shop" / "1", **limits)
    louder = FACTORS | {"users": FACTORS["users"] * 2}
    write_shop(folder / "models" / "shop" / "2", factors=louder, version="2", **limits)
    with serving_engine(folder, bundles=(first,)) as engine, running_web(folder) as port:
        yield SimpleNamespace(engine=engine, port=port)


def ask(shop, body, content_type="application/json", path="/v1/models/shop/predict", **headers):
    connection = http.client.HTTPConnection("127.0.0.1", shop.port, timeout=30)
    try:
        body = body if isinstance(body, bytes) else json.dumps({"inputs": body}).encode()
        given = {"Authorization": f"Bearer {KEY}", "Content-Type": content_type, **headers}
        connection.request("POST", path, body, given)
        answer = connection.getresponse()
        return answer.status, answer.read(), answer.headers
    finally:
        connection.close()


def told(shop, *arguments, **headers):
    status, content, _ = ask(shop, *arguments, **headers)
    return status, json.loads(content)


def test_a_client_is_answered_by_name(shop):
    status, answer = told(shop, [{"user": "ann", "k": 2}, {"user": "chloé of a long name", "include_seen": True}])

    assert status == 200
    assert answer["predictions"] == [
        {"user": "ann", "items": best_of(0, 2)},
        # Ten would be wanted where nothing is said; this model gives three at most.
        {"user": "chloé of a long name", "items": best_of(2, 3, include_seen=True)},
    ]


def test_an_unknown_user_is_404_with_its_name_and_place(shop):
    status, problem = told(shop, [{"user": "ann"}, {"user": "zoë"}, {"user": "björn"}])

    assert (status, problem["type"]) == (404, "urn:bedplate:problem:unknown-user")
    assert problem["detail"] == "inputs[1]: user 'zoë' is not known to the model"
    assert problem["value"] == "zoë"
    assert "trained with" in problem["next_step"]


def test_an_unknown_user_fails_alone(shop):
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        asked = [USERS[number % 3] if number % 4 else f"nobody{number}" for number in range(64)]
        answers = list(pool.map(lambda user: told(shop, [{"user": user}], **{"Cache-Control": "no-store"}), asked))

    for user, (status, answer) in zip(asked, answers, strict=True):
        if user in USERS:
            assert answer["predictions"][0]["user"] == user
        else:
            assert (status, answer["value"]) == (404, user)


@pytest.mark.parametrize(
    ("one", "status", "code", "detail"),
    [
        ({"user": "ann", "k": 0}, 422, "out-of-range", "inputs[0].k: 0 is out of range, 1 to 3"),
        ({"user": "ann", "k": 4}, 422, "out-of-range", "inputs[0].k: 4 is out of range, 1 to 3"),
        ({"user": "ann", "k": 10**30}, 422, "out-of-range", "inputs[0].k: "),
        ({"user": "ann", "k": 2.0}, 422, "wrong-value", "inputs[0]: k is no whole number"),
        ({"user": "ann", "k": True}, 422, "wrong-value", "inputs[0]: k is no whole number"),
        ({"user": "ann", "include_seen": 1}, 422, "wrong-value", "inputs[0]: k is no whole number"),
        ({"user": 17}, 422, "wrong-value", "inputs[0].user does not do, wanted a text of 1 to 64 bytes"),
        ({"user": ""}, 422, "wrong-value", "inputs[0].user does not do"),
        ({"user": "é" * 33}, 422, "wrong-value", "inputs[0].user does not do"),
        ({"user": "\ud800"}, 422, "wrong-value", "inputs[0].user does not do"),
        ({"user": "ann\x00"}, 422, "wrong-value", "inputs[0].user does not do"),
        ({"k": 1}, 422, "wrong-value", "inputs[0].user does not do"),
        ({"user": "ann", "page": 2}, 422, "unknown-field", "inputs[0] has a field that is not known"),
        ("ann", 422, "wrong-shape", "'inputs' is no list of objects"),
    ],
)
def test_what_does_not_do_is_told(shop, one, status, code, detail):
    found, problem = told(shop, [one])

    assert (found, problem["type"]) == (status, f"urn:bedplate:problem:{code}")
    assert problem["detail"].startswith(detail)
    assert problem["next_step"]


def test_more_items_than_a_request_may_have_are_refused(shop):
    assert told(shop, [{"user": "ann"}] * 9)[1]["type"] == "urn:bedplate:problem:too-many-items"


@pytest.mark.parametrize("path", ["/v1/models/shop/predict", "/v2/models/shop/infer"])
def test_a_body_beyond_what_the_bundle_allows_is_refused_unread(shop, path):
    status, content, _ = ask(shop, b" " * 2001, path=path)

    assert status == 413
    assert b"2000 bytes are allowed" in content


def test_records_of_bytes_are_answered_too(shop):
    asked = questions([("björn", 2, False)])

    status, answer = told(shop, asked.tobytes(), "application/octet-stream")
    assert answer["predictions"] == [{"user": "björn", "items": best_of(1, 2)}]

    headers = {"Inference-Header-Content-Length": "0"}
    status, content, given = ask(shop, asked.tobytes(), "application/octet-stream", "/v2/models/shop/infer", **headers)
    raw = content[int(given["Inference-Header-Content-Length"]) :]
    found = suggestions_in(np.frombuffer(raw, np.uint8).reshape(1, 3, -1))[0]
    assert status == 200
    assert [(one["item"].decode(), one["score"]) for one in found[:2]] == as_pairs(best_of(1, 2))
    assert not found[2]["item"]


def test_records_of_bytes_that_name_nobody_are_404(shop):
    assert told(shop, b"\xff" * 72, "application/octet-stream")[0] == 404


def test_the_list_of_models_tells_how_many_may_be_asked_for(shop):
    connection = http.client.HTTPConnection("127.0.0.1", shop.port, timeout=30)
    connection.request("GET", "/v1/models", headers={"Authorization": f"Bearer {KEY}"})
    [model] = json.load(connection.getresponse())["models"]
    connection.close()

    assert (model["task"], model["max_k"]) == ("recommendation", 3)


def test_new_factors_go_live_under_load_and_nobody_gets_old_answers_from_the_cache(shop):
    old, new = {"user": "ann", "items": best_of(0, 3)}, {"user": "ann", "items": best_of(0, 3, factor=2)}
    assert told(shop, [{"user": "ann"}])[1]["predictions"] == [old]
    assert ask(shop, [{"user": "ann"}])[2]["Cache-Status"] == "bedplate; hit; detail=memory"
    stop, wrong = threading.Event(), []
    seen = {"cached": [], "past the cache": []}  # versions, by client

    def keep_asking(versions, headers):
        while not stop.is_set():
            status, answer = told(shop, [{"user": "ann"}], **headers)
            right = status == 200 and answer["predictions"] == {"1": [old], "2": [new]}[answer["version"]]
            (versions if right else wrong).append(answer.get("version"))

    def wait_for(version):
        give_up = time.monotonic() + 30
        while min(versions.count(version) for versions in seen.values()) < 20:
            assert not wrong
            assert time.monotonic() < give_up
            time.sleep(0.01)

    clients = [
        threading.Thread(target=keep_asking, args=[seen["cached"], {}]),
        threading.Thread(target=keep_asking, args=[seen["past the cache"], {"Cache-Control": "no-cache"}]),
    ]
    for client in clients:
        client.start()
    try:
        wait_for("1")
        assert shop.engine.ask(do="load", directory="shop/2")["ok"]
        assert shop.engine.ask(do="promote", name="shop", version="2")["ok"]
        wait_for("2")
    finally:
        stop.set()
        for client in clients:
            client.join()

    assert not wrong
    assert all(versions == sorted(versions) for versions in seen.values()), "nobody goes back to the old factors"
    shop.engine.ask(do="promote", name="shop", version="1")
