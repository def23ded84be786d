"""`bedplate bundle import hf` of models that answer with a vector, beside their own library, pooled by hand."""

import json

import numpy as np
import pytest
import torch
from bedplate.bundle.bundle import read_bundle
from bedplate.bundle.tokenizer import tokenizer_of
from bedplate.decode.text import ids_of
from bedplate.engine.model import Model
from safetensors.torch import save_file

from tests.zoo.models import ENTRIES

transformers = pytest.importorskip("transformers", reason="pip install 'transformers>=5.5': imports are not tested")
pytestmark = pytest.mark.filterwarnings("ignore")
BY_NAME = {entry.name: entry for entry in ENTRIES}
TEXTS = ["the film was not bad at all", "slow", "what i saw of the day", "good good good house light"]


@pytest.fixture
def imports(bundle_import, tmp_path):
    return lambda folder, *options: bundle_import("hf", folder, "--output", tmp_path / "out", *options)


@pytest.fixture
def vector(tmp_path):
    """What the bundle answers, of a text."""

    def ask(text, padding=()):
        bundle = read_bundle(tmp_path / "out")
        model = Model.load(bundle, tmp_path / "out", torch.device("cpu"))
        ids = ids_of(text.encode(), bundle.input, bundle.input.text, tokenizer_of(bundle.tokenizer))
        return model.run(np.concatenate([ids, np.array([padding], ids.dtype)], axis=1) if padding else ids)[0]

    return ask


def hidden(folder, text):
    """By transformers itself: (tokens, numbers) of a text."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    given = tokenizer(text, return_tensors="pt")
    given.pop("token_type_ids", None)
    with torch.inference_mode():
        return model(**given).last_hidden_state[0].numpy()


def unit(vector):
    return vector / np.linalg.norm(vector)


def sentence_transformers(folder, *modules, pooling, **said):
    """Its files beside those of transformers."""
    known = ["Transformer", "Pooling", *modules]
    paths = ["", *(f"{at}_{kind}" for at, kind in enumerate(known) if at)]
    entries = [
        {"idx": at, "name": str(at), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for at, (kind, path) in enumerate(zip(known, paths, strict=True))
    ]
    (folder / "modules.json").write_text(json.dumps(entries))
    for path in paths[1:]:
        (folder / path).mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    (folder / "sentence_bert_config.json").write_text(json.dumps(said))
    return folder


MEAN = {"word_embedding_dimension": 64, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}
CLS = {"word_embedding_dimension": 64, "pooling_mode": "cls"}


def test_a_folder_of_sentence_transformers_becomes_a_bundle(imports, vector, tmp_path):
    folder = sentence_transformers(
        BY_NAME["bert-mean"].write(tmp_path / "mini"), "Normalize", pooling=MEAN, max_seq_length=20, do_lower_case=False
    )

    status, said, errors = imports(folder)

    assert (status, errors) == (0, "")
    assert "2 to 20 tokens" in said
    bundle = read_bundle(tmp_path / "out")
    assert (bundle.task, bundle.output.name, bundle.output.shape) == ("tensors", "embedding", (64,))
    for text in TEXTS:
        assert np.abs(vector(text) - unit(hidden(folder, text).mean(0))).max() < 1e-6


def test_the_layers_behind_the_pooling_are_in_the_program(imports, vector, tmp_path):
    folder = sentence_transformers(BY_NAME["bert-mean"].write(tmp_path / "mini"), "Dense", pooling=CLS)
    weight, bias = torch.randn(8, 64), torch.randn(8)
    save_file({"linear.weight": weight, "linear.bias": bias}, folder / "2_Dense" / "model.safetensors")
    said = {"in_features": 64, "out_features": 8, "bias": True}
    said["activation_function"] = "torch.nn.modules.activation.Tanh"
    (folder / "2_Dense" / "config.json").write_text(json.dumps(said))

    assert imports(folder)[0] == 0

    wanted = np.tanh(weight.numpy() @ hidden(folder, TEXTS[0])[0] + bias.numpy())
    assert np.abs(vector(TEXTS[0]) - wanted).max() < 1e-5


def test_a_prompt_that_is_added_elsewhere_is_told_of(imports, tmp_path):
    folder = sentence_transformers(BY_NAME["bert-mean"].write(tmp_path / "mini"), pooling=MEAN)
    said = {"prompts": {"query": "query: "}, "default_prompt_name": "query"}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(said))

    assert "clients send the prompt 'query: ' before a text themselves" in imports(folder)[1]


def test_small_letters_are_made_where_the_folder_says_so(imports, tmp_path):
    folder = sentence_transformers(BY_NAME["bert-mean"].write(tmp_path / "mini"), pooling=MEAN, do_lower_case=True)
    tokenizer = json.loads((folder / "tokenizer.json").read_bytes())
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer | {"normalizer": None}))

    assert imports(folder)[0] == 0

    bundle = read_bundle(tmp_path / "out")
    upper, lower = (
        ids_of(text, bundle.input, bundle.input.text, tokenizer_of(bundle.tokenizer)) for text in (b"SLOW", b"slow")
    )
    assert upper.tolist() == lower.tolist()


@pytest.mark.parametrize(
    ("modules", "pooling", "told"),
    [
        (["Normalize", "Dense"], MEAN, "Transformer, Pooling, Normalize, Dense is not imported"),
        (["LSTM"], MEAN, "Transformer, Pooling, LSTM is not imported"),
        ([], {"pooling_mode_max_tokens": True}, "pooling_mode_max_tokens is not imported; wanted mean"),
        ([], MEAN | {"pooling_mode_cls_token": True}, "pooling_mode_cls_token, pooling_mode_mean_tokens is not"),
        ([], {}, "no pooling is not imported"),
    ],
)
def test_modules_that_are_not_known_are_named(imports, tmp_path, modules, pooling, told):
    folder = sentence_transformers(BY_NAME["bert-mean"].write(tmp_path / "mini"), *modules, pooling=pooling)

    status, _, errors = imports(folder)

    assert (status, told in errors) == (1, True), errors


@pytest.mark.parametrize("path", ["../out", "/etc", "a/b"])
def test_a_module_outside_of_the_folder_is_refused(imports, tmp_path, path):
    folder = sentence_transformers(BY_NAME["bert-mean"].write(tmp_path / "mini"), pooling=MEAN)
    entries = json.loads((folder / "modules.json").read_bytes())
    entries[1]["path"] = path
    (folder / "modules.json").write_text(json.dumps(entries))

    status, _, errors = imports(folder)

    assert (status, "is no folder in it" in errors) == (1, True)


POOLED = {
    "mean": lambda tokens: tokens.mean(0),
    "cls": lambda tokens: tokens[0],
    "last": lambda tokens: tokens[-1],
}


@pytest.mark.parametrize("pooling", POOLED)
def test_a_plain_encoder_is_pooled_as_it_is_asked_for(imports, vector, tmp_path, pooling):
    folder = BY_NAME["bert-mean"].write(tmp_path / "plain")

    assert imports(folder, "--pooling", pooling, "--normalize")[0] == 0

    for text in TEXTS:
        assert np.abs(vector(text) - unit(POOLED[pooling](hidden(folder, text)))).max() < 1e-6


@pytest.mark.parametrize("pooling", POOLED)
def test_padding_is_no_token(imports, vector, tmp_path, pooling):
    assert imports(BY_NAME["bert-mean"].write(tmp_path / "plain"), "--pooling", pooling)[0] == 0

    assert np.abs(vector(TEXTS[0]) - vector(TEXTS[0], padding=[0, 0, 0])).max() < 1e-5


def test_an_end_that_is_the_padding_too_is_a_token(imports, vector, tmp_path):
    """As of Qwen's embeddings, whose last token is the answer."""
    folder = BY_NAME["bert-mean"].write(tmp_path / "plain")
    config = json.loads((folder / "config.json").read_bytes())
    (folder / "config.json").write_text(json.dumps(config | {"pad_token_id": 3}))

    assert imports(folder, "--pooling", "last")[0] == 0

    assert np.abs(vector(TEXTS[0]) - hidden(folder, TEXTS[0])[-1]).max() < 1e-5


def test_a_plain_encoder_without_a_pooling_is_told_what_there_is(imports, tmp_path):
    status, _, errors = imports(BY_NAME["bert-mean"].write(tmp_path / "plain"))

    assert status == 1
    assert "BertModel does not say what its vector is; name --pooling cls or last or mean or pooler" in errors


@pytest.mark.parametrize("name", ["NobodysModel", "AutoModel", "GenerationMixinModel"])
def test_a_class_that_transformers_has_not_is_named(imports, tmp_path, name):
    folder = BY_NAME["bert-mean"].write(tmp_path / "plain")
    config = json.loads((folder / "config.json").read_bytes())
    (folder / "config.json").write_text(json.dumps(config | {"architectures": [name], "model_type": "nobodys"}))

    status, _, errors = imports(folder, "--pooling", "mean")

    assert (status, f"transformers has no '{name}'" in errors) == (1, True), errors


@pytest.mark.parametrize(("name", "part"), [("clipvision-own", []), ("clip-image-own", ["--part", "image"])])
def test_a_projection_is_part_of_the_vector(imports, tmp_path, name, part):
    assert imports(BY_NAME[name].write(tmp_path / "clip"), *part)[0] == 0

    bundle = read_bundle(tmp_path / "out")
    assert (bundle.task, bundle.output.shape) == ("tensors", (32,))
    assert bundle.input.image is not None


def test_a_model_of_pictures_and_texts_is_asked_for_one_of_them(imports, tmp_path):
    folder = BY_NAME["clip-image-own"].write(tmp_path / "clip")

    assert "CLIPModel takes pictures and texts; name --part image or text" in imports(folder)[2]


def test_a_pooler_that_was_not_saved_is_missed_by_who_asks_for_it(imports, tmp_path):
    folder = BY_NAME["bert-mean"].write(tmp_path / "plain")
    weights = transformers.BertModel.from_pretrained(folder, add_pooling_layer=False)
    for file in folder.glob("*.safetensors*"):
        file.unlink()
    weights.save_pretrained(folder)

    assert "the weights lack pooler.dense" in imports(folder, "--pooling", "pooler")[2]
    assert imports(folder, "--pooling", "mean")[0] == 0
