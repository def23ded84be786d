"""Small models of Hugging Face's architectures with random weights, as folders that save_pretrained writes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

WORDS = "the a film was good bad slow and not very what i saw it of day in story house light on we".split()  # noqa: SIM905 - read at a glance
SIDE, LABELS, MOST_TOKENS = 64, 5, 64
LAYERS = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
PICTURE = {"num_labels": LABELS, "image_size": SIDE}
TEXT = {"num_labels": LABELS, "vocab_size": 32, "max_position_embeddings": MOST_TOKENS}
STRETCHED = {"image_processor_type": "ViTImageProcessor", "size": {"height": SIDE, "width": SIDE}, "resample": 2}
CROPPED = {
    "image_processor_type": "ConvNextImageProcessor",
    "size": {"shortest_edge": SIDE},
    "crop_pct": 0.875,
    "resample": 3,
}
CENTRED = {
    "image_processor_type": "BitImageProcessor",
    "size": {"shortest_edge": 72},
    "crop_size": {"height": SIDE, "width": SIDE},
    "do_center_crop": True,
    "resample": 3,
}
NORMALIZED = {
    "do_resize": True,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
}


_END = r"(For(Image|Sequence|Audio)Classification|Model(WithProjection)?)$"


@dataclass(frozen=True)
class Entry:
    """One architecture: transformers' names for its class and configuration, and what that is given.

    Args:
        processor: of pictures; None: it takes texts.
        pooling: of one that answers with a vector, as --pooling has it; "own": as the model itself says.
        part: of a model of pictures and texts.
        is_unit: whether the vector has the length 1.
    """

    model: str
    config: dict[str, Any]
    processor: dict[str, Any] | None = None
    tokens: str = "bert"
    pooling: str = ""
    part: str = ""
    is_unit: bool = False
    called: str = ""

    @property
    def name(self) -> str:
        plain = self.called or re.sub(_END, "", self.model).lower()
        return "-".join(filter(None, (plain, self.part, self.pooling)))

    @property
    def options(self) -> list[str]:
        """Of the command, beside the folder."""
        pooling = ["--pooling", self.pooling] if self.pooling not in ("", "own") else []
        part = ["--part", self.part] if self.part else []
        return [*pooling, *part, *(["--normalize"] if self.is_unit else [])]

    @property
    def answers_vectors(self) -> bool:
        return bool(self.pooling)

    @property
    def takes_pictures(self) -> bool:
        return self.processor is not None and self.part != "text"

    def write(self, folder: Path) -> Path:
        import transformers  # noqa: PLC0415

        torch.manual_seed(0)
        made = getattr(transformers, self.model)
        model = made(made.config_class(**self.config)).eval()
        if "roberta" in self.name:
            model = model.to(torch.bfloat16)
        # Weights as they are at first are so small that all answers are the same.
        model.apply(_stirred)
        model.save_pretrained(folder, max_shard_size="100KB")
        if self.takes_pictures and self.processor:
            (folder / "preprocessor_config.json").write_text(json.dumps(NORMALIZED | self.processor))
        else:
            _TOKENIZERS[self.tokens]().save(str(folder / "tokenizer.json"))
            said = {"model_max_length": MOST_TOKENS, "tokenizer_class": "PreTrainedTokenizerFast", **_PADS[self.tokens]}
            (folder / "tokenizer_config.json").write_text(json.dumps(said))
        return folder


def _stirred(module: torch.nn.Module) -> None:
    if isinstance(module, torch.nn.Linear):
        torch.nn.init.normal_(module.weight, std=1.5 / module.in_features**0.5)
    if isinstance(module, torch.nn.Conv2d):
        torch.nn.init.normal_(module.weight, std=(2 / module.weight[0].numel()) ** 0.5)
    if isinstance(module, torch.nn.Embedding):
        torch.nn.init.normal_(module.weight, std=1)


def _bert() -> Tokenizer:
    known = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    tokenizer = Tokenizer(models.WordLevel({word: at for at, word in enumerate(known)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return tokenizer


def _roberta() -> Tokenizer:
    known = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *WORDS]
    tokenizer = Tokenizer(models.WordLevel({word: at for at, word in enumerate(known)}, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), False, False)
    return tokenizer


_TOKENIZERS: dict[str, Callable[[], Tokenizer]] = {"bert": _bert, "roberta": _roberta}
_PADS = {"bert": {"pad_token": "[PAD]"}, "roberta": {"pad_token": "<pad>"}}
STAGES = {"hidden_sizes": [8, 16, 32, 64], "depths": [1, 1, 2, 1]}
FOUR = STAGES | {"num_labels": LABELS}
ROBERTA = TEXT | LAYERS | {"max_position_embeddings": MOST_TOKENS + 2}

WORDS_ONLY = {"vocab_size": 32, "max_position_embeddings": MOST_TOKENS}
DISTILLED = {"dim": 64, "n_layers": 2, "n_heads": 4, "hidden_dim": 128}
CLIPPED = CENTRED | {"image_processor_type": "CLIPImageProcessor"}
CLIP = {
    "text_config": WORDS_ONLY
    | LAYERS
    | {"eos_token_id": 3, "bos_token_id": 2, "pad_token_id": 0, "projection_dim": 32},
    "vision_config": LAYERS | {"image_size": SIDE, "patch_size": 16, "projection_dim": 32},
    "projection_dim": 32,
}
SIGLIP = {
    "text_config": WORDS_ONLY | LAYERS,
    "vision_config": LAYERS | {"image_size": SIDE, "patch_size": 16},
}

ENTRIES = [
    Entry("ViTForImageClassification", LAYERS | PICTURE | {"patch_size": 16}, STRETCHED),
    Entry("DeiTForImageClassification", LAYERS | PICTURE | {"patch_size": 16}, CENTRED),
    Entry("BeitForImageClassification", LAYERS | PICTURE | {"patch_size": 16}, STRETCHED),
    Entry("Dinov2ForImageClassification", LAYERS | PICTURE | {"patch_size": 16}, CENTRED),
    Entry("ViTMSNForImageClassification", LAYERS | PICTURE | {"patch_size": 16}, STRETCHED),
    Entry("ResNetForImageClassification", FOUR | {"embedding_size": 8}, CROPPED),
    Entry("RegNetForImageClassification", FOUR | {"embedding_size": 8, "groups_width": 8}, CROPPED),
    Entry("ConvNextForImageClassification", FOUR | {"image_size": SIDE}, CROPPED),
    Entry("ConvNextV2ForImageClassification", FOUR | {"image_size": SIDE}, CROPPED),
    Entry("BitForImageClassification", FOUR | {"embedding_size": 8, "num_groups": 4}, CENTRED),
    Entry(
        "SwinForImageClassification",
        PICTURE | {"embed_dim": 24, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4},
        STRETCHED,
    ),
    Entry(
        "Swinv2ForImageClassification",
        PICTURE | {"embed_dim": 24, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4},
        STRETCHED,
    ),
    Entry("MobileNetV2ForImageClassification", PICTURE | {"depth_multiplier": 0.35}, CENTRED),
    Entry("MobileNetV1ForImageClassification", PICTURE | {"depth_multiplier": 0.25}, CENTRED),
    Entry(
        "SegformerForImageClassification",
        PICTURE | {"hidden_sizes": [8, 16, 32, 64], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 2, 4, 8]},
        STRETCHED,
    ),
    Entry(
        "PoolFormerForImageClassification",
        {"hidden_sizes": [8, 16, 32, 64], "depths": [1, 1, 1, 1], "num_labels": LABELS},
        STRETCHED,
    ),
    Entry("BertForSequenceClassification", TEXT | LAYERS),
    Entry("RobertaForSequenceClassification", ROBERTA, tokens="roberta"),
    Entry("XLMRobertaForSequenceClassification", ROBERTA, tokens="roberta"),
    Entry("CamembertForSequenceClassification", ROBERTA, tokens="roberta"),
    Entry("DistilBertForSequenceClassification", TEXT | DISTILLED),
    Entry("ElectraForSequenceClassification", TEXT | LAYERS | {"embedding_size": 32}),
    Entry("AlbertForSequenceClassification", TEXT | LAYERS | {"embedding_size": 32}),
    Entry(
        "MPNetForSequenceClassification", TEXT | LAYERS | {"max_position_embeddings": MOST_TOKENS + 2}, tokens="roberta"
    ),
    Entry(
        "DebertaV2ForSequenceClassification",
        TEXT | LAYERS | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]},
    ),
    Entry("ModernBertForSequenceClassification", TEXT | LAYERS | {"pad_token_id": 0}),
    Entry("MobileBertForSequenceClassification", TEXT | LAYERS | {"embedding_size": 32, "intra_bottleneck_size": 64}),
    Entry("SqueezeBertForSequenceClassification", TEXT | LAYERS | {"embedding_size": 64}),
    Entry("BertModel", WORDS_ONLY | LAYERS, pooling="mean"),
    Entry(
        "BertModel",
        WORDS_ONLY | LAYERS | {"hidden_size": 48, "num_hidden_layers": 6, "intermediate_size": 192},
        pooling="mean",
        is_unit=True,
        called="minilm",
    ),
    Entry("MPNetModel", ROBERTA, tokens="roberta", pooling="mean", is_unit=True),
    Entry("DistilBertModel", WORDS_ONLY | DISTILLED, pooling="mean"),
    Entry("RobertaModel", ROBERTA, tokens="roberta", pooling="mean"),
    Entry("XLMRobertaModel", ROBERTA, tokens="roberta", pooling="cls", is_unit=True),
    Entry("ElectraModel", WORDS_ONLY | LAYERS | {"embedding_size": 32}, pooling="mean"),
    Entry("AlbertModel", WORDS_ONLY | LAYERS | {"embedding_size": 32}, pooling="mean"),
    Entry("ModernBertModel", WORDS_ONLY | LAYERS | {"pad_token_id": 0}, pooling="cls", is_unit=True),
    Entry(
        "T5EncoderModel",
        {"vocab_size": 32, "d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4},
        pooling="mean",
        is_unit=True,
    ),
    Entry(
        "Qwen3Model",
        WORDS_ONLY
        | LAYERS
        | {"num_key_value_heads": 2, "head_dim": 16, "pad_token_id": 0, "tie_word_embeddings": True},
        pooling="last",
        is_unit=True,
    ),
    Entry("ViTModel", LAYERS | {"image_size": SIDE, "patch_size": 16}, STRETCHED, pooling="cls", is_unit=True),
    Entry("Dinov2Model", LAYERS | {"image_size": SIDE, "patch_size": 16}, CENTRED, pooling="own"),
    Entry("ResNetModel", STAGES | {"embedding_size": 8}, CROPPED, pooling="own"),
    Entry("ConvNextModel", STAGES, CROPPED, pooling="own"),
    Entry(
        "SwinModel",
        {"image_size": SIDE, "embed_dim": 24, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4},
        STRETCHED,
        pooling="mean",
    ),
    Entry("CLIPVisionModelWithProjection", CLIP["vision_config"], CLIPPED, pooling="own", is_unit=True),
    Entry("CLIPModel", CLIP, CLIPPED, part="image", pooling="own"),
    Entry("CLIPModel", CLIP, CLIPPED, part="text", pooling="own"),
    Entry("SiglipModel", SIGLIP, STRETCHED, part="image", pooling="own"),
]
