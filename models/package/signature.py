"""The verification of a package's signature, `<version>.sig` next to the package's folder.

The signature is that of OpenSSF Model Signing, over every file of the folder, with an elliptic
curve key:

    model_signing sign key models/iris/1 --private_key key.pem --signature models/iris/1.sig

https://github.com/sigstore/model-transparency

A signature lists the digests of files. They are compared with the digest of the card as it was
read, and with the digests in the card, against which `ModelPackage.load` checks the bytes that it
returns. No file is therefore read once for the signature and again for its use.
"""

import hashlib
import tempfile
from pathlib import Path

from models.package.files import FileError, names_inside, open_file, read_all
from models.package.model_package import CARD_FILE, MAX_CARD_BYTES, ModelPackage, PackageError


class SignatureError(ValueError):
    """A signature that is not valid for a package. The message is the reason."""


def require_signing() -> None:
    """Check that the library that verifies signatures is installed.

    Raises:
        SystemExit: the library is not installed.
    """
    try:
        import model_signing.verifying  # noqa: F401 - only checks that the import works
    except ImportError:
        raise SystemExit(
            "error: FITSERVE_PACKAGE_PUBLIC_KEY needs model-signing: pip install 'fitserve[sign]'"
        ) from None


def verify_signature(package: ModelPackage, public_key: Path) -> None:
    """Check that the owner of `public_key`, a PEM file, signed this package as it was read.

    The content of the files is not read here: the bytes that `package.load` returns are those that
    were signed.

    Raises:
        PackageError: the package is not signed, is signed with another key, or a file was changed,
            added or removed.
    """
    signature = f"{package.path.name}.sig"
    try:
        with open_file(package.path.with_name(signature), inside=package.path.parent) as stream:
            content = read_all(stream, MAX_CARD_BYTES)
    except FileError as error:
        missing = isinstance(error.__cause__, FileNotFoundError)
        reason = "the signature is missing" if missing else str(error)
        raise PackageError(package.label, signature, reason) from error
    try:
        _compare(package, _signed_digests(content, _read_key(package, public_key)))
    except (FileError, SignatureError) as error:
        reason = f"the signature is not good for this package ({error})"
        raise PackageError(package.label, signature, reason) from error


def _read_key(package: ModelPackage, path: Path) -> bytes:
    try:
        with open_file(path) as stream:
            return read_all(stream, MAX_CARD_BYTES)
    except FileError as error:
        reason = f"there is no public key where FITSERVE_PACKAGE_PUBLIC_KEY says: {error}"
        raise PackageError(package.label, None, reason) from error


def _signed_digests(signature: bytes, key: bytes) -> dict[str, str]:
    """Return the SHA-256 of each signed file, by name.

    Raises:
        SignatureError: the signature is not that of the key's owner, or lists other digests.
    """
    # The verifier accepts only files, and its public functions do not return the digests.
    from model_signing._signing.sign_ec_key import Verifier
    from model_signing._signing.sign_sigstore_pb import Signature

    with tempfile.TemporaryDirectory(prefix="fitserve-") as folder:
        signature_file, key_file = Path(folder, "signature"), Path(folder, "key")
        signature_file.write_bytes(signature)
        key_file.write_bytes(key)
        try:
            verifier = Verifier(key_file)
        except Exception as error:
            raise SignatureError(
                "FITSERVE_PACKAGE_PUBLIC_KEY names no public key on an elliptic curve, as PEM"
            ) from error
        try:
            manifest = verifier.verify(Signature.read(signature_file))
            serialization = manifest.serialization_type
            listed = list(manifest.resource_descriptors())
        except Exception as error:
            # The library does not wrap the errors of its parsers and its cryptography.
            raise SignatureError("it is none, or not of FITSERVE_PACKAGE_PUBLIC_KEY") from error
    algorithms = {resource.digest.algorithm for resource in listed}
    if serialization["method"] != "files" or algorithms != {"sha256"}:
        raise SignatureError("it is not over the SHA-256 of whole files: sign with the defaults")
    return {resource.identifier: resource.digest.digest_hex for resource in listed}


def _compare(package: ModelPackage, signed: dict[str, str]) -> None:
    """Compare the signed digests with those of the card, and the signed names with the folder.

    The signing tool ignores `.git` and the like. Here, a file that was not signed is an error.

    Raises:
        FileError: the folder holds a link or a device, or cannot be read.
        SignatureError: a file was changed, added or removed.
    """
    digests = {CARD_FILE: package.card_sha256}
    digests |= {name: record.sha256 for name, record in package.card.files.items()}
    present = names_inside(package.path)
    for added in sorted(present - signed.keys()):
        raise SignatureError(f"{added!r:.100} was added")
    for removed in sorted(signed.keys() - present):
        raise SignatureError(f"{removed!r:.100} was removed")
    for name, digest in signed.items():
        if digest != (digests[name] if name in digests else _digest(package.path, name)):
            raise SignatureError(f"{name!r:.100} was changed")


def _digest(folder: Path, name: str) -> str:
    """Return the digest of a signed file that the card does not list, and that is never served."""
    with open_file(folder / name, inside=folder) as stream:
        return hashlib.sha256(read_all(stream, MAX_CARD_BYTES)).hexdigest()
