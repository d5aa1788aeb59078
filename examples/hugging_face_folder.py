"""Make a package of a folder of Hugging Face, serve it and ask it about texts."""

import subprocess
import sys
import tempfile
from pathlib import Path

from serving import ask, serving
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import BertConfig, BertForSequenceClassification, BertTokenizer

TEXTS = ["i liked it a lot", "it was too long", "too long, and i liked nothing"]


def write(folder: Path) -> None:
    """Write a small network with random weights; your folder is one that was trained."""
    words = Tokenizer(models.WordPiece(unk_token="[UNK]"))  # noqa: S106
    words.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words.train_from_iterator(TEXTS, trainers.WordPieceTrainer(special_tokens=special))
    BertTokenizer(vocab=words.get_vocab(), model_max_length=24).save_pretrained(folder)
    config = BertConfig(
        vocab_size=words.get_vocab_size(), hidden_size=16, num_hidden_layers=1,
        num_attention_heads=2, intermediate_size=32, max_position_embeddings=24,
        id2label={0: "bad", 1: "good"},
    )  # fmt: skip
    BertForSequenceClassification(config).save_pretrained(folder)


def main() -> None:
    """Do it, in folders that are removed afterwards."""
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as repository:
        write(Path(folder))
        command = [sys.executable, "-P", "-m", "fitserve", "add", "reviews", folder]
        subprocess.run([*command, "--repository", repository], check=True)
        with serving(repository) as server:
            for text, answer in zip(TEXTS, ask(server, "reviews", TEXTS), strict=True):
                print(f"{text!r} is {answer['label']}")


if __name__ == "__main__":
    main()
