"""Objects in pictures: from candidates to boxes, what boxes are worth, and what a client is told."""

import base64
import io
import json
import urllib.request
import warnings

import numpy as np
import pytest
import torch
from bedplate.bundle.bundle import Bundle, BundleError, describe, read_bundle, write_manifest
from bedplate.bundle.detection import Boxes, Detection, boxes_of, mean_average_precision, overlap
from bedplate.optimize import check
from bedplate.web import openapi
from bedplate.web.cache.kept import from_text
from bedplate.web.items.decoders import Media
from bedplate.web.items.postprocess import predictions_of
from jsonschema import Draft202012Validator
from PIL import Image
from safetensors.torch import save_file

from tests.service.detection_tools import WEIGHTS, lamps
from tests.service.engine_tools import write_bundle

DESCRIBED = Draft202012Validator({"$ref": "#/components/schemas/Prediction", **json.loads(openapi.document())})
SPEC = Detection("xyxy", score_threshold=0.5, iou_threshold=0.5, max_boxes=10)


def spec(**changes):
    return Detection(**{**vars(SPEC), **changes})


def candidates(*rows):
    """Each (left, top, right, bottom, score of each label)."""
    numbers = np.array(rows, np.float32)
    return numbers[:, :4], numbers[:, 4:]


def shown(found):
    return [
        (label, pytest.approx(corners)) for label, corners in zip(found.labels, found.corners.tolist(), strict=True)
    ]


def test_of_boxes_that_overlap_the_surest_stays():
    found = boxes_of(*candidates([0, 0, 0.5, 0.5, 0.8], [0, 0, 0.5, 0.4, 0.9], [0.5, 0.5, 1, 1, 0.7]), SPEC)

    assert shown(found) == [(0, [0, 0, 0.5, 0.4]), (0, [0.5, 0.5, 1, 1])]
    assert found.scores == pytest.approx([0.9, 0.7])


def test_boxes_of_another_label_are_left_alone():
    found = boxes_of(*candidates([0, 0, 0.5, 0.5, 0.8, 0.1], [0, 0, 0.5, 0.5, 0.1, 0.9]), SPEC)

    assert found.labels.tolist() == [1, 0]


def test_a_candidate_may_be_of_two_labels():
    assert boxes_of(*candidates([0, 0, 0.5, 0.5, 0.8, 0.6]), SPEC).labels.tolist() == [0, 1]


def test_centres_become_corners_that_do_not_leave_the_picture():
    found = boxes_of(*candidates([0.5, 0.5, 0.2, 0.4, 1], [0.1, 0.9, 0.4, 0.4, 1]), spec(box_format="cxcywh"))

    assert shown(found) == [(0, [0.4, 0.3, 0.6, 0.7]), (0, [0, 0.7, 0.3, 1])]


@pytest.mark.parametrize(
    "row",
    [
        [0, 0, 0.5, 0.5, 0.4],
        [0.5, 0, 0.5, 0.5, 0.9],
        [0.6, 0, 0.5, 0.5, 0.9],
        [1.5, 0, 2, 1, 0.9],
        [np.nan, 0, 1, 1, 0.9],
        [0, 0, 1, 1, np.nan],
    ],
    ids=["unsure", "without a width", "inside out", "outside", "no number", "no score"],
)
def test_what_is_no_box_is_left_out(row):
    assert len(boxes_of(*candidates(row), SPEC).labels) == 0


def test_no_more_boxes_are_told_than_wanted_and_the_best_of_them():
    rows = [[place / 100, 0, (place + 1) / 100, 1, 0.5 + place / 250] for place in range(100)]

    found = boxes_of(*candidates(*rows), spec(max_boxes=3))

    assert found.scores == pytest.approx([0.896, 0.892, 0.888])


def plain(places, scores, wanted):
    """The same without numpy, box by box."""
    every = sorted(
        (-scores[number, label], number, label) for number in range(len(scores)) for label in range(scores.shape[1])
    )
    kept = []
    for score, number, label in every:
        apart = all(
            other != label or overlap(places[number], places[which][None])[0] <= wanted.iou_threshold
            for _, which, other in kept
        )
        if -score >= wanted.score_threshold and apart and len(kept) < wanted.max_boxes:
            kept.append((score, number, label))
    return [(label, number) for _, number, label in kept]


def test_many_boxes_are_thinned_out_as_one_by_one():
    random = np.random.default_rng(7)
    for _ in range(30):
        corners = np.sort(random.uniform(size=(80, 2, 2)), axis=1).reshape(80, 4)
        scores = random.uniform(size=(80, 3))
        wanted = spec(iou_threshold=random.uniform(0.1, 0.6), max_boxes=40)

        found = boxes_of(corners, scores, wanted)

        assert shown(found) == [(label, corners[number].tolist()) for label, number in plain(corners, scores, wanted)]


def boxes(*rows):
    """Each (label, score, left, top, right, bottom)."""
    numbers = np.array(rows, float).reshape(-1, 6)
    return Boxes(numbers[:, 2:], numbers[:, 0].astype(int), numbers[:, 1])


HERE, THERE, NOWHERE = (0, 0, 0.4, 0.4), (0.5, 0.5, 1, 1), (0.9, 0, 1, 0.1)


@pytest.mark.parametrize(
    ("found", "worth"),
    [
        ([(0, 0.9, *HERE), (0, 0.8, *THERE)], 1),
        ([(0, 0.9, *HERE)], 0.5),
        ([(0, 0.9, *HERE), (0, 0.8, *HERE)], 0.5),
        ([(0, 0.9, *NOWHERE), (0, 0.8, *HERE), (0, 0.7, *THERE)], 2 / 3),
        ([(0, 0.9, *HERE), (0, 0.8, *NOWHERE), (0, 0.7, *THERE)], (1 + 2 / 3) / 2),
        ([(1, 0.9, *HERE), (1, 0.8, *THERE)], 0),
        ([], 0),
    ],
    ids=["all", "one of two", "one twice", "a wrong one first", "a wrong one between", "of another label", "none"],
)
def test_what_boxes_are_worth(found, worth):
    assert mean_average_precision([boxes(*found)], [boxes((0, 1, *HERE), (0, 1, *THERE))]) == pytest.approx(worth)


def test_each_label_counts_the_same():
    truth = [boxes((0, 1, *HERE), (1, 1, *THERE)), boxes((0, 1, *HERE))]
    found = [boxes((0, 0.9, *HERE)), boxes((0, 0.8, *HERE), (1, 0.8, *THERE))]

    assert mean_average_precision(found, truth) == 0.5


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    return write_bundle(tmp_path_factory.mktemp("lamps") / "1", WEIGHTS, lamps())


@pytest.fixture
def post(service):
    def send(body, content_type, path="/v1/models/lamps/predict"):
        headers = {"Authorization": f"Bearer {service.key}", "Content-Type": content_type}
        request = urllib.request.Request(service.url + path, data=body, headers=headers)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer), answer.headers

    return send


def quarters(pixels, size, **options):
    """A picture of width x height whose quarters are as bright as `pixels` says."""
    out = io.BytesIO()
    picture = Image.fromarray(np.array(pixels, np.uint8)).resize(size, Image.Resampling.NEAREST)
    picture.save(out, "PNG", **options)
    return out.getvalue()


def test_boxes_are_told_in_pixels_of_the_picture(post):
    answer, _ = post(quarters([[255, 0], [0, 200]], (640, 480)), "image/png")

    DESCRIBED.validate(answer)
    [found] = answer["predictions"]
    assert (found["width"], found["height"]) == (640, 480)
    places = [(box["label"], box["x"], box["y"], box["width"], box["height"]) for box in found["boxes"]]
    assert places == [("lamp", 0, 0, 320, 240), ("lamp", 320, 240, 320, 240)]
    assert 1 > found["boxes"][0]["score"] > found["boxes"][1]["score"] > 0.6


def test_boxes_are_where_they_are_seen_in_a_picture_that_is_turned(post):
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter to the right

    answer, _ = post(quarters([[255, 0], [0, 0]], (640, 480), exif=exif), "image/png")

    [found] = answer["predictions"]
    assert (found["width"], found["height"]) == (480, 640)
    assert [(box["x"], box["y"]) for box in found["boxes"]] == [(240, 0)]


def test_a_picture_without_objects_has_no_boxes_and_a_tensor_is_measured_as_the_model_takes_it(post):
    dark, _ = post(quarters([[0, 0], [0, 0]], (8, 8)), "image/png")
    tensor, _ = post(json.dumps({"inputs": [[[-1, 1], [-1, -1]]]}).encode(), "application/json")

    assert dark["predictions"] == [{"boxes": [], "width": 8, "height": 8}]
    [found] = tensor["predictions"]
    assert (found["width"], found["height"]) == (2, 2)
    assert [(box["x"], box["y"], box["width"], box["height"]) for box in found["boxes"]] == [(1, 0, 1, 1)]


def test_several_pictures_are_told_each_by_its_own_size(post):
    pictures = [quarters([[255, 0], [0, 0]], (10, 20)), quarters([[0, 0], [0, 255]], (30, 40))]
    form = b"".join(
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n' + picture + b"\r\n"
        for picture in pictures
    )

    answer, _ = post(form + b"--b--\r\n", "multipart/form-data; boundary=b")

    assert [(one["width"], one["boxes"][0]["x"]) for one in answer["predictions"]] == [(10, 0), (30, 15)]


def test_an_answer_is_kept_and_given_again(post):
    picture = quarters([[255, 0], [255, 0]], (33, 44))

    first, second = post(picture, "image/png"), post(picture, "image/png")

    assert second[1]["Cache-Status"] == "bedplate; hit; detail=memory"
    assert second[0]["predictions"] == first[0]["predictions"]
    assert len(first[0]["predictions"][0]["boxes"]) == 2


@pytest.mark.parametrize(
    "kept",
    [
        {"boxes": [], "width": 2},
        {"boxes": {}, "width": 2, "height": 2},
        {"boxes": ["x"], "width": 2, "height": 2},
        {
            "boxes": [{"label": "sun", "score": 1.0, "x": 0.0, "y": 0.0, "width": 1.0, "height": 1.0}],
            "width": 2,
            "height": 2,
        },
        {
            "boxes": [{"label": "lamp", "score": None, "x": 0.0, "y": 0.0, "width": 1.0, "height": 1.0}],
            "width": 2,
            "height": 2,
        },
        {"label": "lamp", "score": 1.0, "scores": {}},
    ],
)
def test_what_was_kept_and_is_no_answer_of_this_model_is_refused(kept):
    text = json.dumps({"model": "lamps", "version": "1", "predictions": [kept]}).encode()

    with pytest.raises((ValueError, TypeError, KeyError)):
        from_text(text, Bundle.from_description(lamps()))


def test_the_protocol_tells_the_candidates(post):
    document = {"inputs": [{"name": "image", "datatype": "FP32", "shape": [1, 1, 2, 2], "data": [-1, 1, -1, -1]}]}

    answer, _ = post(json.dumps(document).encode(), "application/json", "/v2/models/lamps/infer")

    [output] = answer["outputs"]
    assert output["shape"] == [1, 4, 6]
    assert output["data"][6:12] == pytest.approx([0.75, 0.25, 0.5, 0.5, 4, -9])


def test_the_answer_is_the_one_of_the_model_offline(post, served):
    known, model = check.load(served, "float32")
    random = np.random.default_rng(3)
    pictures = [quarters(random.integers(0, 256, (2, 2)), (50 + number, 70)) for number in range(20)]

    told = [post(picture, "image/png")[0]["predictions"] for picture in pictures]

    assert told == [check.answer(known, model, "image/png", picture) for picture in pictures]


def test_candidates_far_beyond_all_scores_are_no_fault():
    model = Bundle.from_description(lamps())
    outputs = np.full((1, 4, 6), 3e38, np.float32)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        [found] = predictions_of(outputs, model, Media([outputs]))

    assert found["boxes"] == []


def with_validation(directory, expected, threshold=0.9):
    document = lamps(validation={"file": "validation.safetensors", "metric": "map50", "threshold": threshold})
    write_bundle(directory, WEIGHTS, document)
    inputs = torch.tensor([[1.0, -1, -1, 1], [-1, -1, -1, -1]]).reshape(2, 1, 2, 2)
    save_file({"inputs": inputs, "expected": expected}, directory / "validation.safetensors")
    write_manifest(directory)
    return directory


@pytest.mark.parametrize(
    ("rows", "share"),
    [
        ([[0, 0, 0, 0, 0.5, 0.5], [0, 0, 0.5, 0.5, 1, 1]], 1),
        ([[0, 0, 0, 0, 0.5, 0.5], [1, 0, 0.5, 0.5, 1, 1]], 0.5),
        ([[0, 1, 0, 0, 0.5, 0.5]], 0),
    ],
)
def test_a_validation_set_of_boxes_is_computed(tmp_path, rows, share):
    directory = with_validation(tmp_path / "1", torch.tensor(rows))
    bundle, model = check.load(directory, "float32")

    measured = check.measure(bundle, directory, model)

    assert (measured.share, measured.items, measured.suffices) == (share, 2, share == 1)
    assert check.canary_answer(bundle, model) == bundle.canary.wanted == "the boxes of expected.json"


@pytest.mark.parametrize(
    ("expected", "told"),
    [
        (torch.zeros(1, 5), "'expected' is float32 [1, 5], wanted float32 [boxes, 6]"),
        (torch.zeros(0, 6), "wanted float32 [boxes, 6]"),
        (torch.tensor([[2.0, 0, 0, 0, 1, 1]]), "none of 2 items"),
        (torch.tensor([[0.5, 0, 0, 0, 1, 1]]), "none of 2 items"),
        (torch.tensor([[0.0, 2, 0, 0, 1, 1]]), "none of 2 labels"),
        (torch.tensor([[0.0, 0, 0, 0, 1.5, 1]]), "no shares of the picture"),
        (torch.tensor([[0.0, 0, 1, 0, 0, 1]]), "no shares of the picture"),
        (torch.tensor([[float("nan"), 0, 0, 0, 1, 1]]), "none of 2 items"),
    ],
)
def test_a_validation_set_that_is_no_boxes_is_refused(tmp_path, expected, told):
    directory = with_validation(tmp_path / "1", expected)
    bundle, model = check.load(directory, "float32")

    with pytest.raises(BundleError) as refused:
        check.measure(bundle, directory, model)

    assert told in str(refused.value)


SQUARE = {"label": "lamp", "x": 0, "y": 0, "width": 100, "height": 100}
BOX = {"label": "lamp", "score": 0.9, "x": 1.0, "y": 0.0, "width": 1.0, "height": 1.0}


@pytest.mark.parametrize(
    ("found", "told"),
    [
        ([BOX], "the boxes of expected.json"),
        ([BOX | {"x": 1.05}], "the boxes of expected.json"),
        ([BOX | {"x": 1.5}], "no box of lamp that overlaps with the expected one by 0.9"),
        ([BOX | {"label": "moon"}], "no box of lamp that overlaps with the expected one by 0.9"),
        ([BOX, BOX], "2 boxes, not 1"),
        ([], "0 boxes, not 1"),
    ],
)
def test_a_canary_tells_which_boxes_are_missing(found, told):
    canary = Bundle.from_description(lamps()).canary

    assert canary.found_in([{"boxes": found, "width": 2, "height": 2}]) == told


def test_boxes_of_one_label_are_told_apart():
    expected = [SQUARE, SQUARE | {"height": 98}]
    content = base64.b64encode(json.dumps({"boxes": expected}).encode()).decode()
    canary = Bundle.from_description(lamps(expect_bytes=content)).canary

    assert canary.found_in([{"boxes": expected[::-1]}]) == canary.wanted
    assert canary.found_in([{"boxes": [SQUARE, SQUARE | {"x": 500}]}]).startswith("no box of lamp")


@pytest.mark.parametrize("found", [[{"output": [1]}], [], [{"boxes": [{"label": "lamp"}]}], [{"boxes": 3}]])
def test_an_answer_of_another_kind_is_none(found):
    with pytest.raises((ValueError, KeyError, IndexError, TypeError)):
        Bundle.from_description(lamps()).canary.found_in(found)


def test_a_description_over_the_wire_gives_the_same_bundle(served):
    known = read_bundle(served)

    assert Bundle.from_description(json.loads(json.dumps(describe(known)))) == known


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"outputs": [{"name": "x", "dtype": "float32", "shape": [6]}]},
            "outputs[0].shape: [6] does not do, wanted [candidates, 6]",
        ),
        ({"outputs": [{"name": "x", "dtype": "float32", "shape": [4, 5]}]}, "wanted [candidates, 6] floating numbers"),
        ({"outputs": [{"name": "x", "dtype": "int64", "shape": [4, 6]}]}, "wanted [candidates, 6] floating numbers"),
        ({"labels": ["sun", "moon"]}, "canary.expect: ['lamp'] does not do, wanted boxes whose labels are of 'labels'"),
        ({"expect_bytes": "e30="}, "canary.expect: 'expected.json' does not do, wanted a JSON document {\"boxes\""),
        ({"expect_bytes": "eyJib3hlcyI6IFtdfQ=="}, "canary.expect: 'expected.json' does not do"),
    ],
)
def test_a_bundle_whose_keys_do_not_agree_is_refused(changes, told):
    with pytest.raises(BundleError) as refused:
        Bundle.from_description(lamps(**changes))

    assert told in str(refused.value)


def test_a_grid_of_another_size_is_refused_at_warm_up(tmp_path):
    outputs = [{"name": "candidates", "dtype": "float32", "shape": [9, 6]}]
    directory = write_bundle(tmp_path / "1", WEIGHTS, lamps(outputs=outputs))

    with pytest.raises(BundleError, match=r"network gives float32 \(1, 4, 6\), bundle.yaml says float32 \(1, 9, 6\)"):
        check.load(directory, "float32")
