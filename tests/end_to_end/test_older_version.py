"""An older signed version that serves again is reported by a real server."""

import json
from pathlib import Path

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from faulty_networks import write_sound
from live_server import serving, temporary_home
from model_signing.signing import Config


def test_the_index_the_models_and_the_log_report_an_older_version(
    root: Path, tmp_path: Path
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    private, public = tmp_path / "key.pem", tmp_path / "key.pub"
    form = PrivateFormat.TraditionalOpenSSL
    private.write_bytes(key.private_bytes(Encoding.PEM, form, NoEncryption()))
    public.write_bytes(
        key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    repository = tmp_path / "packages"
    path = write_sound(repository, "line").path
    signer = Config().use_elliptic_key_signer(private_key=private)
    signer.sign(path, path.with_name("1.sig"))
    record = tmp_path / "versions.json"
    record.write_text('{"line": 3}')
    settings = {
        "FITSERVE_MODEL_REPOSITORY": str(repository),
        "FITSERVE_PACKAGE_PUBLIC_KEY": str(public),
        "FITSERVE_VERSIONS_FILE": str(record),
        "FITSERVE_DEVICE": "cpu",
    }
    notice = "version 3 was served before and is not there any more; the older version 1 serves"
    with temporary_home() as home, serving(home, root, settings=settings) as server:
        (entry,) = httpx.post(f"{server.url}/v2/repository/index").json()
        assert entry == {"name": "line", "version": "1", "state": "READY", "reason": notice}
        (model,) = httpx.get(f"{server.url}/models").json()["models"]
        assert model["serving"]["notice"] == notice
        assert notice in server.read_log()
        response = httpx.post(f"{server.url}/predict_curve", json={"x": [1], "model": "line"})
        assert response.json() == {"model": "line", "version": "1", "y": [3.0]}
    assert json.loads(record.read_bytes()) == {"line": 3}
