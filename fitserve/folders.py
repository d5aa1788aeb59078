"""Folders of Hugging Face on disk: `config.json`, weights, and a tokenizer or image processor.

No code in the folder runs, and nothing is downloaded: weights are read from safetensors, or by
torch with `weights_only`.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fitserve.exported import Exported, ExportError, reason
from fitserve.heads import classes_of, with_scores
from fitserve.pictures import export_pictures
from fitserve.texts import export_texts

CONFIG_FILE = "config.json"
_CLASSES = {
    "ForSequenceClassification": "AutoModelForSequenceClassification",
    "ForTokenClassification": "AutoModelForTokenClassification",
    "ForImageClassification": "AutoModelForImageClassification",
    "Model": "AutoModel",
}
"""The class of Transformers that loads an architecture, by the end of its name."""


def export_folder(
    folder: Path, texts: Sequence[Any] | None = None, max_tokens: int | None = None
) -> Exported:
    """Return the network in a folder as files.

    Args:
        folder: as `save_pretrained` of Transformers writes it.
        texts: for the proof of a network for texts; some of our own by default.
        max_tokens: a text with more tokens is cut; by default as the folder says.

    Raises:
        ExportError: the folder lacks a file, or holds a network that is not served.
    """
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    architecture = _architecture(folder)
    kind = next((end for end in _CLASSES if architecture.endswith(end)), None)
    if kind is None:
        raise ExportError(
            f"{folder}: it holds a {architecture}; served are "
            f"{', '.join(f'…{end}' for end in _CLASSES)}: save the base model alone, with "
            "AutoModel.from_pretrained(folder).save_pretrained(other)"
        )
    network = _load(folder, getattr(transformers, _CLASSES[kind]), "the weights", dtype="float32")
    if type(network).__name__ != architecture:
        raise ExportError(
            f"{folder}: transformers {transformers.__version__} makes a {type(network).__name__} "
            f"of it, and {CONFIG_FILE} says {architecture}: save it again with this release"
        )
    if (folder / "preprocessor_config.json").is_file() and not _has_tokenizer(folder):
        processor = _load(
            folder, transformers.AutoImageProcessor, "preprocessor_config.json", backend="pil"
        )
        return export_pictures(with_scores(network), None, processor, None, classes_of(network))
    if not _has_tokenizer(folder):
        raise ExportError(
            f"{folder}: it has neither tokenizer.json nor preprocessor_config.json: save the "
            "tokenizer into it, with tokenizer.save_pretrained(folder)"
        )
    tokenizer = _load(folder, transformers.AutoTokenizer, "the tokenizer")
    return export_texts(network, tokenizer, texts, (), max_tokens=max_tokens)


def read_texts(file: Path) -> list[str]:
    """Return the lines of a file, without empty ones.

    Raises:
        ExportError: the file cannot be read, or holds no text.
    """
    try:
        lines = [line for line in file.read_text("utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise ExportError(
            f"{file}: it cannot be read ({reason(error)}): give a text in each line, as UTF-8"
        ) from error
    if not lines:
        raise ExportError(f"{file}: it holds no text: give a text in each line")
    return lines


def _has_tokenizer(folder: Path) -> bool:
    return (folder / "tokenizer.json").is_file() or (folder / "tokenizer_config.json").is_file()


def _architecture(folder: Path) -> str:
    try:
        config = json.loads((folder / CONFIG_FILE).read_text("utf-8"))
        (architecture,) = config["architectures"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ExportError(
            f"{folder}: its {CONFIG_FILE} names no architecture: save the network with "
            "network.save_pretrained(folder)"
        ) from error
    if "auto_map" in config:
        raise ExportError(
            f"{folder}: its network is code of its own (auto_map in {CONFIG_FILE}), which is not "
            "run: give it as FILE.py:make, with --weights"
        )
    return str(architecture)


def _load(folder: Path, kind: Any, what: str, **options: Any) -> Any:
    """Return what Transformers loads of the folder, without code of it and without downloads."""
    try:
        return kind.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, **options
        )
    except Exception as error:
        raise ExportError(
            f"{folder}: transformers cannot read {what} ({reason(error)[:300]})"
        ) from error
