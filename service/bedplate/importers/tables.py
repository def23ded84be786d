"""`bedplate bundle import sklearn`, `xgboost` and `lightgbm`: models of tables, as ONNX by their own converters.

What joblib wrote is a pickle: it runs what its author wrote, on the author's machine, and nowhere else.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from bedplate.bundle.strict_yaml import BundleError, words_of
from bedplate.importers import onnx_file
from bedplate.importers.answers import Answers
from bedplate.importers.options import BundleOptions, labels_of
from bedplate.importers.writing import Array, Imported, numbers_validation

_MAX_VALIDATION_BYTES = 64 << 20
_MAX_ROWS = 10_000
_ANY = 1e30  # of a column of which nobody says more


@dataclass(frozen=True)
class TableOptions(BundleOptions):
    rows: Path = Path()  # .csv whose first line has the names of columns, or .npy
    labels: Sequence[str] = ()  # in place of the classes that the model knows


@dataclass(frozen=True)
class _Fitted:
    """A model as its library has it.

    Args:
        columns: their names; none where the model does not know them.
        width: how many there are.
        classes: of a classifier; None of what tells a number.
        answers: rows, (rows, columns) float64 → (rows, classes), or (rows, numbers).
        converted: the same as ONNX, float32 in; its last output are the answers.
    """

    columns: Sequence[str]
    width: int
    classes: Sequence[str] | None
    answers: Callable[[Array], Array]
    converted: Callable[[], onnx.ModelProto]


def import_table(library: str, path: Path, options: TableOptions) -> Imported:
    """
    Args:
        library: of _READERS.

    Raises:
        BundleError: with what to do.
    """
    source = str(path)
    fitted = _said(lambda: _READERS[library](path), f"{source}: {library} cannot read it")
    names, exact = _rows(options.rows, fitted)
    # The original is asked by the numbers as they are written, the bundle by what it makes of them.
    rows = exact.astype(np.float32)
    told = np.asarray(_said(lambda: fitted.answers(exact), f"{source}: fails on {options.rows}"), np.float64)
    told = told.reshape(len(rows), -1)
    answers = told.astype(np.float32)
    model = _said(fitted.converted, f"{source}: its converter cannot make ONNX of it")
    content = onnx_file.rewritten(model, model.graph.output[-1].name, source)
    columns = [{"name": name, "range": [-_ANY, _ANY], "mean": 0, "std": 1} for name in names]
    labels = labels_of(dict(enumerate(options.labels or fitted.classes))) if fitted.classes else ()
    said = Answers("output", labels, activation="none")
    said.require(answers, source)
    document: dict[str, Any] = {
        **options.document("tabular-classification" if labels else "tabular-regression", f"Imported from {path.name}"),
        "inputs": [{"name": "row", "dtype": "float32", "shape": [fitted.width], "columns": columns}],
        "batch": {"max_items": options.max_items},
        **said.document("canary.json", answers),
    }
    canary = {name: float(number) for name, number in zip(names, rows[said.canary(answers)], strict=True)}
    files = {"canary.json": json.dumps({"inputs": [canary]}).encode(), **said.files(answers)}
    validation = numbers_validation(rows, answers, bool(labels), _MAX_VALIDATION_BYTES)
    chosen = [
        f"{len(rows)} rows of {options.rows}; columns take any number: write their 'range' into bundle.yaml",
        *(["activation none: the model tells shares"] if fitted.classes else []),
    ]
    return Imported(document, content, files, validation, [rows], [told], chosen)


def _rows(path: Path, fitted: _Fitted) -> tuple[list[str], Array]:
    """Names of columns, and (rows, columns) float64."""
    try:
        names, rows = _read_rows(path)
    except (OSError, ValueError, csv.Error) as error:
        raise BundleError(
            f"{path}: has no rows of numbers ({error}); wanted .npy, or .csv with a line of names"
        ) from None
    known = list(fitted.columns)
    if known and names and set(known) <= set(names):
        # The answer may stand in a column of its own.
        rows = rows[:, [names.index(name) for name in known]]
    elif names and not known:
        known = names
    if rows.ndim != 2 or rows.shape[1] != fitted.width or not len(rows):
        wanted = f" ({', '.join(known[:5])} …)" if known else ""
        raise BundleError(f"{path}: has the shape {list(rows.shape)}, wanted rows of {fitted.width} columns{wanted}")
    return known or [f"x{at}" for at in range(fitted.width)], np.ascontiguousarray(rows[:_MAX_ROWS], np.float64)


def _read_rows(path: Path) -> tuple[list[str], Array]:
    if path.suffix == ".npy":
        return [], np.load(path, allow_pickle=False)
    with path.open(newline="") as file:
        names, *lines = csv.reader(file)
    return names, np.array([[float(number) for number in line] for line in lines])


def _said(call: Callable[[], Any], told: str) -> Any:
    """Of what libraries raise there is no list."""
    try:
        return call()
    except ModuleNotFoundError as error:
        raise BundleError(f"{told}: needs {error.name}; run: pip install 'bedplate[import-tables]'") from None
    except Exception as error:
        said = words_of(error)
        raise BundleError(f"{told}: {type(error).__name__}: {said}") from None


def _sklearn(path: Path) -> _Fitted:
    import joblib  # noqa: PLC0415 - of the extra `import`, as what follows
    from skl2onnx import to_onnx  # noqa: PLC0415
    from skl2onnx.common.data_types import FloatTensorType  # noqa: PLC0415

    model = joblib.load(path)
    classifies = hasattr(model, "predict_proba")
    names = [str(name) for name in getattr(model, "feature_names_in_", ())]

    def answers(rows: Array) -> Array:
        return np.asarray((model.predict_proba if classifies else model.predict)(_as_fitted(model, rows)))

    def converted() -> onnx.ModelProto:
        # `nocl`: labels stay in bundle.yaml, whatever they are.
        options = {id(model): {"zipmap": False, "nocl": True}} if classifies else None
        made: onnx.ModelProto = to_onnx(
            model, initial_types=[("row", FloatTensorType([None, model.n_features_in_]))], options=options
        )
        return made

    classes = [str(one) for one in model.classes_] if classifies else None
    return _Fitted(names, int(model.n_features_in_), classes, answers, converted)


def _as_fitted(model: Any, rows: Array) -> Any:
    """With the names of columns, where it was fitted with some: else it warns."""
    names = getattr(model, "feature_names_in_", None)
    if names is None:
        return rows
    import pandas  # noqa: PLC0415 - whoever fitted it with names had it

    return pandas.DataFrame(rows, columns=names)


def _xgboost(path: Path) -> _Fitted:
    import xgboost  # noqa: PLC0415
    from onnxmltools.convert import convert_xgboost  # noqa: PLC0415

    model = xgboost.Booster(model_file=str(path))
    names, width = list(model.feature_names or ()), int(model.num_features())
    model.feature_names = None  # the converter wants them to be called f0, f1

    def answers(rows: Array) -> Array:
        return _both(model.predict(xgboost.DMatrix(rows)), classes)

    objective = json.loads(model.save_config())["learner"]["objective"]["name"]
    classes = _numbered(objective, ("binary:", "multi:"), lambda: _count_of(model.predict, xgboost.DMatrix, width))
    return _Fitted(names, width, classes, answers, lambda: convert_xgboost(model, initial_types=_floats(width)))


def _lightgbm(path: Path) -> _Fitted:
    import lightgbm  # noqa: PLC0415
    from onnxmltools.convert import convert_lightgbm  # noqa: PLC0415

    model = lightgbm.Booster(model_file=str(path))
    names, width = list(model.feature_name()), int(model.num_feature())

    def answers(rows: Array) -> Array:
        return _both(model.predict(rows), classes)

    objective = str(model.dump_model(num_iteration=1).get("objective", ""))
    classes = _numbered(objective, ("binary", "multiclass"), lambda: _count_of(model.predict, np.asarray, width))
    return _Fitted(
        names, width, classes, answers, lambda: convert_lightgbm(model, initial_types=_floats(width), zipmap=False)
    )


def _count_of(predict: Callable[[Any], Any], as_rows: Callable[[Array], Any], width: int) -> int:
    """How many numbers the library's own answer to a row has."""
    found = np.asarray(predict(as_rows(np.zeros((1, width), np.float32))))
    return int(found.size)


def _numbered(objective: str, classifying: tuple[str, ...], count: Callable[[], int]) -> list[str] | None:
    """Classes by their numbers: these libraries keep no names."""
    if not objective.startswith(classifying):
        return None
    return [str(number) for number in range(max(2, count()))]


def _both(answers: Any, classes: Sequence[str] | None) -> Array:
    """Of two classes these libraries tell how sure they are of the second; here both are told."""
    found = np.asarray(answers)
    return np.stack([1 - found, found], axis=1) if classes and found.ndim == 1 else found


def _floats(width: int) -> list[Any]:
    from onnxmltools.convert.common.data_types import FloatTensorType  # noqa: PLC0415

    return [("row", FloatTensorType([None, width]))]


_READERS: Mapping[str, Callable[[Path], _Fitted]] = {"sklearn": _sklearn, "xgboost": _xgboost, "lightgbm": _lightgbm}
