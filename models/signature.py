"""Who made a package: its signature, in `<version>.sig` beside its folder.

It is OpenSSF's, over every file of the folder, with a key on an elliptic curve:

    model_signing sign key models/iris/1 --private_key key.pem --signature models/iris/1.sig

https://github.com/sigstore/model-transparency
"""

from pathlib import Path

from models.package import ModelPackage, PackageError


def require_signing() -> None:
    """Check that signatures can be verified here.

    Raises:
        SystemExit: the library is not installed.
    """
    try:
        import model_signing.verifying  # noqa: F401 - only whether it is there
    except ImportError:
        raise SystemExit(
            "error: FITSERVE_PACKAGE_KEY needs model-signing: pip install 'fitserve[sign]'"
        ) from None


def verify_signature(package: ModelPackage, public_key: Path) -> ModelPackage:
    """The package, read again after its signature was verified with `public_key`, a PEM file.

    Raises:
        PackageError: it is not signed, not with this key, or a file was changed, added or removed.
    """
    from model_signing.verifying import Config

    signature = package.path.with_name(f"{package.path.name}.sig")
    try:
        Config().use_elliptic_key_verifier(public_key=public_key).verify(package.path, signature)
    except FileNotFoundError as error:
        reason = "the signature is missing"
        if not public_key.is_file():
            reason = f"there is no public key at {public_key}"
        raise PackageError(package.label, signature.name, reason) from error
    except Exception as error:
        # The library lets through whatever its parsers and its cryptography raise.
        raise PackageError(
            package.label,
            signature.name,
            f"the signature is not good for this package ({error!s:.300})",
        ) from error
    return ModelPackage.read(package.path)
