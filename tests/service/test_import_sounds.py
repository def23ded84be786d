"""`bedplate bundle import hf` of models of recordings, and of those that answer with a number."""

import io
import json
import wave

import numpy as np
import pytest
import torch
from bedplate.bundle.bundle import read_bundle
from bedplate.optimize import check

from tests.service.media_tools import recording
from tests.zoo.models import LAYERS, TEXT, Entry

transformers = pytest.importorskip("transformers", reason="pip install 'transformers>=5.5': imports are not tested")
pytestmark = pytest.mark.filterwarnings("ignore")
RATE_HZ = 16_000
WAVES = LAYERS | {
    "conv_dim": [32, 32],
    "conv_kernel": [10, 3],
    "conv_stride": [5, 4],
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "classifier_proj_size": 16,
    "num_labels": 3,
}
EXTRACTOR = {
    "feature_extractor_type": "Wav2Vec2FeatureExtractor",
    "sampling_rate": RATE_HZ,
    "feature_size": 1,
    "padding_value": 0.0,
    "do_normalize": True,
}


@pytest.fixture
def imports(bundle_import, tmp_path):
    return lambda folder, *options: bundle_import("hf", folder, "--output", tmp_path / "out", *options)


def of_sounds(folder, model, **extractor):
    Entry(model, WAVES).write(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(EXTRACTOR | extractor))
    return folder


def samples_in(content):
    with wave.open(io.BytesIO(content)) as file:
        return np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32) / 32768


@pytest.mark.parametrize("model", ["Wav2Vec2ForSequenceClassification", "HubertForSequenceClassification"])
def test_a_folder_of_a_model_of_recordings_becomes_a_bundle(imports, tmp_path, model):
    folder = of_sounds(tmp_path / "waves", model)

    status, said, errors = imports(folder, "--window", 0.25)

    assert (status, errors) == (0, "")
    assert "windows of 0.25 s at 16000 Hz" in said
    bundle, served = check.load(tmp_path / "out", "float32")
    assert (bundle.task, bundle.input.shape) == ("audio-classification", (1, 4000))
    content = recording("wav", length_s=0.25)
    extractor = transformers.AutoFeatureExtractor.from_pretrained(folder)
    own = transformers.AutoModelForAudioClassification.from_pretrained(folder, dtype=torch.float32).eval()
    given = extractor(samples_in(content), sampling_rate=RATE_HZ, return_tensors="pt")["input_values"]
    with torch.inference_mode():
        wanted = own(given).logits.softmax(-1)[0].tolist()
    [told] = check.answer(bundle, served, "audio/wav", content)
    assert [told["scores"][f"LABEL_{at}"] for at in range(3)] == pytest.approx(wanted, abs=1e-5)


def test_a_recording_is_answered_with_a_vector_where_that_is_asked_for(imports, tmp_path):
    folder = of_sounds(tmp_path / "waves", "Wav2Vec2Model", do_normalize=False)

    assert imports(folder, "--window", 0.25, "--pooling", "mean")[0] == 0

    bundle, served = check.load(tmp_path / "out", "float32")
    assert bundle.task == "tensors"
    content = recording("wav", length_s=0.25)
    own = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        wanted = own(torch.from_numpy(samples_in(content))[None]).last_hidden_state[0].mean(0).tolist()
    [told] = check.answer(bundle, served, "audio/wav", content)
    assert told["output"] == pytest.approx(wanted, abs=1e-4)


def test_recordings_of_the_author_are_asked_about(imports, tmp_path):
    (tmp_path / "recordings").mkdir()
    for kind in ("wav", "flac"):
        (tmp_path / "recordings" / f"a.{kind}").write_bytes(recording(kind, length_s=0.4))
    folder = of_sounds(tmp_path / "waves", "Wav2Vec2ForSequenceClassification")

    status, said, _ = imports(folder, "--window", 0.25, "--examples", tmp_path / "recordings")

    assert status == 0
    assert "of 2 recordings of" in said


@pytest.mark.parametrize(
    ("options", "extractor", "told"),
    [
        ([], {}, "takes recordings; name --window SECONDS"),
        (["--window", 1000], {}, "--window: 1000 s does not do, wanted up to 65 s"),
        (["--window", 1], {"feature_extractor_type": "ASTFeatureExtractor"}, "ASTFeatureExtractor is not imported yet"),
    ],
)
def test_a_model_of_recordings_that_cannot_be_imported_says_why(imports, tmp_path, options, extractor, told):
    status, _, errors = imports(
        of_sounds(tmp_path / "waves", "Wav2Vec2ForSequenceClassification", **extractor), *options
    )

    assert (status, told in errors) == (1, True), errors


@pytest.mark.parametrize("settings", [{"num_labels": 1}, {"num_labels": 2, "problem_type": "regression"}])
def test_a_text_is_answered_with_numbers_where_there_are_no_labels(imports, tmp_path, settings):
    folder = Entry("BertForSequenceClassification", TEXT | LAYERS | settings).write(tmp_path / "grades")

    assert imports(folder)[0] == 0

    bundle, served = check.load(tmp_path / "out", "float32")
    assert (bundle.task, bundle.output.name, bundle.labels) == ("tensors", "value", ())
    assert read_bundle(tmp_path / "out").output.shape == (settings["num_labels"],)
    own = transformers.AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    given = tokenizer("the film was not bad", return_tensors="pt")
    with torch.inference_mode():
        wanted = own(input_ids=given["input_ids"]).logits[0].tolist()
    [told] = check.answer(bundle, served, "text/plain", b"the film was not bad")
    assert told["output"] == pytest.approx(wanted, abs=1e-5)
