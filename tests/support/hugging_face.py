"""Folders of Hugging Face with small networks of random weights, and tokenizers trained here."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import ByteLevelBPETokenizer, Tokenizer, models, normalizers, pre_tokenizers
from tokenizers.trainers import WordPieceTrainer

SENTENCES = (
    "the cat sat on the mat",
    "a dog barked loudly at the cat!",
    "birds sing in the early morning, and nobody minds",
    "Ada wrote to Charles from London in 1843",
    "I loved this film; I hated that one, really",
    "crème brûlée für zwei",
)
MAX_TOKENS = 20
TEXTS = (
    "The cat",
    "",
    "a dog barked loudly at the mat, and the cat sat there",
    "London!",
    "crème brûlée 東京 🙂",
    "I loved the birds " * 40,
)
"""Texts of several lengths, of which the last is cut."""
WIDE = {"initializer_range": 0.5}
"""Weights with which different texts have different answers."""
SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    **WIDE,
}


def classes(*labels: str) -> dict[str, Any]:
    """Return the fields of a configuration that name the classes."""
    return {"id2label": dict(enumerate(labels)), "num_labels": len(labels)}


def word_pieces(kind: type[Any] = transformers.BertTokenizer) -> Any:
    """Return a trained tokenizer of the kind of BERT's."""
    trained = Tokenizer(models.WordPiece(unk_token="[UNK]"))  # noqa: S106
    trained.normalizer = normalizers.BertNormalizer(lowercase=True)
    trained.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trained.train_from_iterator(SENTENCES, WordPieceTrainer(vocab_size=150, special_tokens=special))
    return kind(vocab=trained.get_vocab(), do_lower_case=True, model_max_length=MAX_TOKENS)


def byte_pairs(**options: Any) -> Any:
    """Return a trained tokenizer of the kind of RoBERTa's, without a stated largest length."""
    trained = ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trained.train_from_iterator(SENTENCES, vocab_size=300, special_tokens=special)
    merges = [tuple(pair) for pair in json.loads(trained.to_str())["model"]["merges"]]
    return transformers.RobertaTokenizer(vocab=trained.get_vocab(), merges=merges, **options)


def sequence(folder: Path) -> None:
    """BERT for sequence classification."""
    tokenizer = word_pieces()
    config = transformers.BertConfig(
        vocab_size=len(tokenizer), max_position_embeddings=MAX_TOKENS,
        **SIZES, **classes("bad", "neither", "good"),
    )  # fmt: skip
    save(folder, transformers.BertForSequenceClassification(config), tokenizer)


def several(folder: Path) -> None:
    """DistilBERT for several classes at once, each with its own score."""
    tokenizer = word_pieces(transformers.DistilBertTokenizer)
    config = transformers.DistilBertConfig(
        vocab_size=len(tokenizer), max_position_embeddings=MAX_TOKENS, dim=16, n_layers=1,
        n_heads=2, hidden_dim=32, problem_type="multi_label_classification",
        **WIDE, **classes("animal", "city"),
    )  # fmt: skip
    save(folder, transformers.DistilBertForSequenceClassification(config), tokenizer)


def left(folder: Path) -> None:
    """GPT-2 for sequence classification, which reads its last token: it is padded on the left."""
    tokenizer = byte_pairs(padding_side="left", model_max_length=MAX_TOKENS)
    config = transformers.GPT2Config(
        vocab_size=len(tokenizer), n_positions=MAX_TOKENS, n_embd=16, n_layer=2, n_head=2,
        pad_token_id=tokenizer.pad_token_id, **WIDE, **classes("short", "long"),
    )  # fmt: skip
    save(folder, transformers.GPT2ForSequenceClassification(config), tokenizer)


def tokens(folder: Path) -> None:
    """DistilBERT for token classification."""
    tokenizer = word_pieces(transformers.DistilBertTokenizer)
    config = transformers.DistilBertConfig(
        vocab_size=len(tokenizer), max_position_embeddings=MAX_TOKENS, dim=16, n_layers=1,
        n_heads=2, hidden_dim=32, **WIDE, **classes("O", "PERSON", "PLACE"),
    )  # fmt: skip
    save(folder, transformers.DistilBertForTokenClassification(config), tokenizer)


def embeddings(folder: Path) -> None:
    """RoBERTa without a head; its positions are counted from the number of padding."""
    tokenizer = byte_pairs()
    config = transformers.RobertaConfig(
        vocab_size=len(tokenizer), max_position_embeddings=MAX_TOKENS + 2, type_vocab_size=1,
        pad_token_id=tokenizer.pad_token_id, bos_token_id=0, eos_token_id=2, **SIZES,
    )  # fmt: skip
    save(folder, transformers.RobertaModel(config), tokenizer)


def pictures(folder: Path) -> None:
    """ViT for image classification."""
    config = transformers.ViTConfig(image_size=32, patch_size=8, **SIZES, **classes("cat", "dog"))
    processor = transformers.ViTImageProcessor(size={"height": 32, "width": 32})
    save(folder, transformers.ViTForImageClassification(config), processor)


def save(folder: Path, network: Any, preparation: Any) -> None:
    """Save a network with its tokenizer or image processor."""
    network.save_pretrained(folder)
    preparation.save_pretrained(folder)


FOLDERS: dict[str, Callable[[Path], None]] = {
    "sequence": sequence,
    "several": several,
    "left": left,
    "tokens": tokens,
    "embeddings": embeddings,
    "pictures": pictures,
}


def make(name: str, folder: Path) -> Path:
    """Make one of `FOLDERS`, the same on every call."""
    torch.manual_seed(1)
    FOLDERS[name](folder)
    return folder
