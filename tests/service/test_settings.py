"""Settings, and the errors for invalid ones."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from service.settings import Settings, read_settings, variable_of

SET = {
    "model_repository": ("/srv/models", Path("/srv/models")),
    "vertex_port": ("8080", 8080),
    "vertex_health_route": ("/v1/endpoints/1/deployedModels/2", "/v1/endpoints/1/deployedModels/2"),
    "vertex_predict_route": ("/answer", "/answer"),
    "runtime": ("onnx", "onnx"),
    "device": ("cuda:3", "cuda:3"),
    "require_device": ("true", True),
    "intra_op_threads": ("2", 2),
    "max_load_seconds": ("2.5", 2.5),
    "max_batch_rows": ("512", 512),
    "max_queue_rows": ("1000", 1000),
    "max_queue_delay_seconds": ("0.01", 0.01),
    "max_queue_seconds": ("2.5", 2.5),
    "max_compute_seconds": ("2.5", 2.5),
    "max_compute_bytes": ("100000000", 100_000_000),
    "api_keys_file": ("/etc/keys", Path("/etc/keys")),
    "package_public_key": ("/etc/key.pub", Path("/etc/key.pub")),
    "versions_file": ("/var/versions.json", Path("/var/versions.json")),
    "timings_folder": ("/var/timings", Path("/var/timings")),
    "health": ("off", "off"),
    "metrics": ("key", "key"),
    "playground": ("off", "off"),
    "cors_origins": ('["https://a.example"]', ("https://a.example",)),
    "allowed_hosts": ('["*.a.example", "::1"]', ("*.a.example", "::1")),
    "default_model": ("line", "line"),
    "log_format": ("json", "json"),
    "inline_seconds": ("0.002", 0.002),
    "busy_poll_seconds": ("0.001", 0.001),
    "model_weights": ('{"line": 2}', {"line": 2.0}),
    "timeout_seconds": ("2.5", 2.5),
    "graceful_shutdown_seconds": ("2.5", 2.5),
    "max_connections": ("100", 100),
    "max_header_bytes": ("2000", 2000),
    "header_timeout_seconds": ("2.5", 2.5),
    "keep_alive_seconds": ("3", 3),
    "max_body_bytes": ("1000", 1000),
    "max_buffered_bytes": ("100000000", 100_000_000),
    "body_timeout_seconds": ("2.5", 2.5),
    "max_parse_seconds": ("2.5", 2.5),
    "response_timeout_seconds": ("2.5", 2.5),
    "max_unread_bytes": ("1000", 1000),
    "compress_from_bytes": ("0", 0),
    "max_image_pixels": ("1000", 1000),
    "access_log_ratio": ("0.5", 0.5),
    "trace_sample_ratio": ("0.01", 0.01),
}


def test_every_setting_is_in_the_table() -> None:
    assert set(Settings.model_fields) == set(SET)


@pytest.mark.parametrize("name", list(SET))
def test_a_setting_is_read_from_the_environment_with_the_prefix(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, value = SET[name]
    assert getattr(Settings(), name) != value
    monkeypatch.setenv(variable_of(name), text)
    assert getattr(Settings(), name) == value


def test_a_variable_without_the_prefix_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THREADS", "3")
    assert Settings().intra_op_threads == 0


def test_by_default_the_shipped_packages_serve_bodies_of_up_to_64_mib(root: Path) -> None:
    settings = Settings()
    assert settings.model_repository == root / "models"
    assert settings.max_body_bytes == 64 * 2**20
    assert (settings.runtime, settings.device) == ("auto", "auto")
    assert settings.max_queue_delay_seconds == 0


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda:0", "cuda:15"])
def test_a_device_is_named_as_torch_names_it(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FITSERVE_DEVICE", device)
    assert Settings().device == device


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("runtime", "tensorrt"),
        ("runtime", ""),
        ("device", "cuda"),
        ("device", "gpu:0"),
        ("device", "cuda:-1"),
        ("device", "cuda:00"),  # ONNX Runtime would accept it as cuda:0, and torch would not
        ("device", "cuda:\N{FULLWIDTH DIGIT ONE}"),
        ("device", "cuda:0\n"),
        ("intra_op_threads", "-1"),
        ("intra_op_threads", "many"),
        ("max_batch_rows", "0"),
        ("max_batch_rows", "2.5"),
        ("max_queue_rows", "0"),
        ("max_queue_delay_seconds", "-0.1"),
        ("max_queue_delay_seconds", "2"),
        ("max_queue_delay_seconds", "nan"),
        ("timeout_seconds", "0"),
        ("timeout_seconds", "nan"),
        ("max_header_bytes", "0"),
        ("header_timeout_seconds", "0"),
        ("max_body_bytes", "0"),
        ("max_body_bytes", "64MiB"),
        ("max_image_pixels", "0"),
        ("response_timeout_seconds", "0"),
        ("max_unread_bytes", "0"),
    ],
)
def test_a_value_out_of_bounds_is_refused_with_the_name_of_its_setting(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"FITSERVE_{name.upper()}", value)
    with pytest.raises(ValidationError) as refused:
        Settings()
    (error,) = refused.value.errors()
    assert error["loc"] == (name,)
    assert name in str(refused.value)


def test_a_queue_that_cannot_hold_a_batch_is_refused_with_both_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FITSERVE_MAX_BATCH_ROWS", "100")
    monkeypatch.setenv("FITSERVE_MAX_QUEUE_ROWS", "99")
    with pytest.raises(
        ValidationError, match="FITSERVE_MAX_QUEUE_ROWS must be at least FITSERVE_MAX_BATCH_ROWS"
    ):
        Settings()
    monkeypatch.setenv("FITSERVE_MAX_QUEUE_ROWS", "100")
    assert Settings().max_queue_rows == 100


def test_settings_are_read_at_one_place_and_passed_on(root: Path) -> None:
    sources = {path: path.read_text() for path in (root / "service").rglob("*.py")}
    readers = [path for path, source in sources.items() if "read_settings()" in source]
    assert sorted(path.name for path in readers) == ["service.py", "settings.py"]
    assert sources[root / "service" / "service.py"].count("read_settings()") == 1
    assert not [path for path, source in sources.items() if "= Settings()" in source]


def test_settings_do_not_change_once_read() -> None:
    before = read_settings()
    value: Any = 3
    with pytest.raises(ValidationError, match="frozen"):
        before.intra_op_threads = value


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("FITSERVE_MAX_BATCH_ROWS", "many", "error: FITSERVE_MAX_BATCH_ROWS is 'many': "),
        ("FITSERVE_DEVICE", "gpu", "error: FITSERVE_DEVICE is 'gpu': "),
        ("FITSERVE_MAX_QUEUE_ROWS", "3", "error: FITSERVE_MAX_QUEUE_ROWS must be at least "),
        (
            "FITSERVE_ALLOWED_HOSTS",
            "a.example",
            "error: FITSERVE_ALLOWED_HOSTS must be a JSON list",
        ),
        ("FITSERVE_CORS_ORIGINS", "*", "error: FITSERVE_CORS_ORIGINS must be a JSON list"),
        (
            "FITSERVE_MODEL_WEIGHTS",
            "mnist-cnn=4",
            "error: FITSERVE_MODEL_WEIGHTS must be a JSON object of numbers",
        ),
        (
            "FITSERVE_ALLOWED_HOSTS",
            '["http://a"]',
            "error: FITSERVE_ALLOWED_HOSTS is ['http://a']:",
        ),
    ],
)
def test_an_invalid_setting_ends_the_process_with_one_sentence(
    name: str, value: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as ended:
        read_settings()
    assert str(ended.value.code).startswith(message)
    assert "\n" not in str(ended.value.code)
