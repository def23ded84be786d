"""`bedplate bundle import` of scikit-learn, xgboost and lightgbm, where `bedplate[import-tables]` is installed."""

import json
from pathlib import Path

import numpy as np
import pytest
from bedplate.bundle.bundle import read_bundle
from bedplate.commands import cli
from sklearn.ensemble import GradientBoostingRegressor, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

joblib = pytest.importorskip("joblib", reason="pip install joblib: imports of tables are not tested")
pytest.importorskip("skl2onnx", reason="pip install skl2onnx: imports of tables are not tested")
pytestmark = pytest.mark.filterwarnings("ignore")
ROWS = np.random.default_rng(0).normal(size=(300, 3)) * [1, 10, 100]
KINDS = np.where(ROWS[:, 0] * 10 > ROWS[:, 1], "LED", "halogen")
POWER = ROWS @ [3, 1, 0.1] + np.sin(ROWS[:, 0])


@pytest.fixture
def imports(bundle_import, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    np.save("rows.npy", ROWS)
    np.savetxt("rows.csv", ROWS, delimiter=",", header="power,age,width", comments="")

    def run(library, file, rows="rows.npy", *arguments):
        return bundle_import(library, file, "--rows", rows, "--output", "out", *arguments)

    return run


@pytest.mark.parametrize(
    "model",
    [RandomForestClassifier(10, random_state=0), make_pipeline(StandardScaler(), LogisticRegression())],
    ids=["forest", "pipeline"],
)
def test_a_classifier_of_scikit_learn_tells_its_own_classes(imports, capsys, model):
    joblib.dump(model.fit(ROWS, KINDS), "lamp.joblib")

    status, said, errors = imports("sklearn", "lamp.joblib", "rows.csv")

    assert (status, errors) == (0, "")
    assert "the same top-1 for 300 of 300" in said
    bundle = read_bundle(Path("out"))
    assert (bundle.task, bundle.labels, bundle.activation) == ("tabular-classification", ("LED", "halogen"), "none")
    assert [column.name for column in bundle.input.columns] == ["power", "age", "width"]
    assert cli.main(["bundle", "check", "out"]) == 0
    assert "accuracy: 1.0000 of 300 items" in capsys.readouterr().out


def test_a_regression_tells_a_number(imports, capsys):
    joblib.dump(GradientBoostingRegressor(random_state=0).fit(ROWS, POWER), "lamp.joblib")

    status, said, errors = imports("sklearn", "lamp.joblib")

    assert (status, errors) == (0, "")
    assert "300 inputs, largest difference" in said
    bundle = read_bundle(Path("out"))
    assert (bundle.task, bundle.output.shape) == ("tabular-regression", (1,))
    assert [column.name for column in bundle.input.columns] == ["x0", "x1", "x2"]
    assert cli.main(["bundle", "check", "out"]) == 0


def test_columns_are_found_by_the_names_that_the_model_was_fitted_with(imports):
    pandas = pytest.importorskip("pandas", reason="pip install pandas: names of columns are not tested")
    table = pandas.DataFrame(ROWS, columns=["power", "age", "width"])
    joblib.dump(RandomForestClassifier(5, random_state=0).fit(table, KINDS), "lamp.joblib")
    table.assign(kind=0)[["kind", "width", "power", "age"]].to_csv("more.csv", index=False)

    status, said, errors = imports("sklearn", "lamp.joblib", "more.csv")

    assert (status, errors) == (0, "")
    assert "the same top-1 for 300 of 300" in said
    canary = json.loads(read_bundle(Path("out")).canary.content)
    assert list(canary["inputs"][0]) == ["power", "age", "width"]


@pytest.mark.parametrize(
    ("objective", "answer"),
    [("binary:logistic", KINDS == "LED"), ("multi:softprob", ROWS.argmax(axis=1)), ("reg:squarederror", POWER)],
)
def test_trees_of_xgboost_answer_as_they_do_there(imports, objective, answer):
    xgboost = pytest.importorskip("xgboost", reason="pip install xgboost: its models are not tested")
    pytest.importorskip("onnxmltools", reason="pip install onnxmltools: models of xgboost are not tested")
    names = ["power of it", "age", "width"]
    told = {"objective": objective, **({"num_class": 3} if "multi" in objective else {})}
    xgboost.train(told, xgboost.DMatrix(ROWS, answer, feature_names=names), 5).save_model("lamp.json")

    status, said, errors = imports("xgboost", "lamp.json")

    assert (status, errors) == (0, "")
    assert "300 inputs, largest difference" in said
    bundle = read_bundle(Path("out"))
    assert [column.name for column in bundle.input.columns] == names
    assert bundle.labels == {"b": ("0", "1"), "m": ("0", "1", "2"), "r": ()}[objective[0]]


@pytest.mark.parametrize(
    ("objective", "answer"),
    [("binary", KINDS == "LED"), ("multiclass", ROWS.argmax(axis=1)), ("regression", POWER)],
)
def test_trees_of_lightgbm_answer_as_they_do_there(imports, tmp_path, objective, answer):
    lightgbm = pytest.importorskip("lightgbm", reason="pip install lightgbm: its models are not tested")
    pytest.importorskip("onnxmltools", reason="pip install onnxmltools: models of lightgbm are not tested")
    told = {"objective": objective, "verbose": -1, **({"num_class": 3} if objective == "multiclass" else {})}
    lightgbm.train(told, lightgbm.Dataset(ROWS, answer), 5).save_model("lamp.txt")
    (tmp_path / "labels.txt").write_text("one\ntwo\nthree\n" if objective == "multiclass" else "one\ntwo\n")
    labels = [] if objective == "regression" else ["--labels", "labels.txt"]

    status, said, errors = imports("lightgbm", "lamp.txt", "rows.npy", *labels)

    assert (status, errors) == (0, "")
    assert "300 inputs, largest difference" in said
    assert read_bundle(Path("out")).labels == {"b": ("one", "two"), "m": ("one", "two", "three"), "r": ()}[objective[0]]


class Other:
    """A model that tells something else each time, as a converter that errs."""

    def __init__(self, model):
        self.model, self.n_features_in_ = model, 3

    def predict(self, rows):
        return self.model.predict(rows) + 0.07 * np.abs(POWER).max()


def test_a_model_whose_conversion_differs_is_refused_and_leaves_nothing(imports, tmp_path, monkeypatch):
    import skl2onnx  # noqa: PLC0415 - may be missing

    convert = skl2onnx.to_onnx
    monkeypatch.setattr(skl2onnx, "to_onnx", lambda model, **options: convert(model.model, **options))
    joblib.dump(Other(GradientBoostingRegressor(random_state=0).fit(ROWS, POWER)), "lamp.joblib")

    status, _, errors = imports("sklearn", "lamp.joblib")

    assert status != 0
    assert "computes something else than the original: 300 inputs, largest difference" in errors
    assert not (tmp_path / "out").exists()


REFUSED = {
    "no file": ("missing.joblib", "rows.npy", "sklearn cannot read it: FileNotFoundError"),
    "no rows": ("lamp.joblib", "missing.csv", "missing.csv: has no rows of numbers"),
    "rows of words": ("lamp.joblib", "words.csv", "words.csv: has no rows of numbers"),
    "too few columns": ("lamp.joblib", "two.npy", "has the shape [300, 2], wanted rows of 3 columns"),
    "what its converter writes as a loop": ("near.joblib", "rows.npy", "ai.onnx.Scan is not on the list of operators"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_imported_is_told(imports, tmp_path, case):
    file, rows, told = REFUSED[case]
    joblib.dump(RandomForestClassifier(3, random_state=0).fit(ROWS, KINDS), "lamp.joblib")
    joblib.dump(KNeighborsClassifier().fit(ROWS, KINDS), "near.joblib")
    (tmp_path / "words.csv").write_text("power,age,width\n1,2,new\n")
    np.save("two.npy", ROWS[:, :2])

    status, _, errors = imports("sklearn", file, rows)

    assert status != 0
    assert told in errors
    assert not (tmp_path / "out").exists()
