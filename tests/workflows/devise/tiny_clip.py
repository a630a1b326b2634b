"""Tiny CLIP-like models with random weights, and tokenizers of letters."""

from __future__ import annotations

import json
from pathlib import Path

import torch

SIZE = 16
"""The side, in pixels, of the images that the models take."""
_TOWER = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}
_LETTERS = [*"abcdefghijklmnopqrstuvwxyz."]


def tiny_clip(folder: Path, max_tokens: int = 40, seed: int = 0) -> Path:
    """Save a CLIP model and a tokenizer of letters; return the folder."""
    from transformers import CLIPConfig, CLIPModel

    tokens = [
        *_LETTERS,
        *(f"{letter}</w>" for letter in _LETTERS),
        "<|startoftext|>",
        "<|endoftext|>",
    ]
    torch.manual_seed(seed)
    config = CLIPConfig(
        text_config={**_TOWER, "vocab_size": len(tokens), "max_position_embeddings": max_tokens,
                     "bos_token_id": len(tokens) - 2, "eos_token_id": len(tokens) - 1},
        vision_config={**_TOWER, "image_size": SIZE, "patch_size": 8},
        projection_dim=8,
    )  # fmt: skip
    CLIPModel(config).save_pretrained(folder)
    vocabulary = {token: token_id for token_id, token in enumerate(tokens)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CLIPTokenizer"}))
    return folder


def tiny_siglip(folder: Path) -> Path:
    """Save a SigLIP model, a tokenizer of letters and its preprocessing; return the folder."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, SiglipConfig, SiglipModel

    vocabulary = {token: token_id for token_id, token in enumerate(["<pad>", "<unk>", *_LETTERS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", model_max_length=24
    ).save_pretrained(folder)
    torch.manual_seed(1)
    config = SiglipConfig(
        text_config={**_TOWER, "vocab_size": len(vocabulary), "max_position_embeddings": 24,
                     "projection_size": 16},
        vision_config={**_TOWER, "image_size": SIZE, "patch_size": 8},
    )  # fmt: skip
    SiglipModel(config).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"size": {"height": SIZE, "width": SIZE}, "image_mean": [0.5] * 3,
                    "image_std": [0.5] * 3, "image_processor_type": "SiglipImageProcessor"})
    )  # fmt: skip
    return folder
