"""Signatures with an elliptic-curve key: of a statement, as a DSSE envelope, and of a checkpoint, by model-signing."""

import base64
import binascii
import json
import os
from pathlib import Path
from typing import Any

from mcm.errors import UserError

PASSWORD = "MCM_SIGNING_PASSWORD"
PAYLOAD = "application/vnd.in-toto+json"
MAKE = "openssl ecparam -name prime256v1 -genkey -noout -out KEY, openssl ec -in KEY -pubout -out PUBLIC"
CURVES = ("secp256r1", "secp384r1", "secp521r1")


class SigningKey:
    """A private key in a PEM file. What is kept of it in memory is never printed."""

    def __init__(self, path: Path):
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        self.path = path
        pem = _read(path)
        if b"PRIVATE KEY" not in pem:
            raise UserError(f"{path}: holds no private key in PEM, which --sign takes; make one: {MAKE}")
        password = os.environ.get(PASSWORD)
        encrypted = b"ENCRYPTED" in pem
        if encrypted and password is None:
            raise UserError(f"{path}: is encrypted; put its password into {PASSWORD}")
        self.password = password.encode() if encrypted and password is not None else None
        try:
            self.key: Any = load_pem_private_key(pem, self.password)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            hint = f"is the password in {PASSWORD} the right one?" if encrypted else f"make one: {MAKE}"
            raise UserError(f"{path}: not readable as a private key; {hint}") from None
        _check_curve(self.key, path)

    def envelope(self, statement: bytes) -> str:
        """A DSSE envelope with the statement, as JSON."""
        from securesystemslib.dsse import Envelope
        from securesystemslib.signer import CryptoSigner

        envelope = Envelope(statement, PAYLOAD, {})
        envelope.sign(CryptoSigner(self.key))
        return json.dumps(envelope.to_dict(), indent=2) + "\n"

    def sign_folder(self, folder: Path, signature: Path) -> None:
        """Write model-signing's signature of a checkpoint: a sigstore bundle that `model_signing verify key` reads."""
        from model_signing import signing

        # model-signing declares the password as text and hands it to cryptography, which takes bytes alone.
        password: Any = self.password
        config = signing.Config().use_elliptic_key_signer(private_key=self.path, password=password)
        config.set_hashing_config(_hashing(folder)).sign(folder, signature)


class PublicKey:
    """A public key in a PEM file."""

    def __init__(self, path: Path):
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.serialization import load_pem_public_key

        self.path = path
        pem = _read(path)
        if b"PRIVATE KEY" in pem:
            raise UserError(f"{path}: is a private key; --key takes the public one: openssl ec -in KEY -pubout")
        try:
            self.key: Any = load_pem_public_key(pem)
        except (ValueError, UnsupportedAlgorithm):
            raise UserError(f"{path}: holds no public key in PEM, which --key takes; make one: {MAKE}") from None
        _check_curve(self.key, path)

    def open(self, envelope: Any, where: Path) -> bytes:
        """The payload of a DSSE envelope. UserError where this key did not sign it, or not as it is now."""
        from securesystemslib.dsse import Envelope
        from securesystemslib.exceptions import FormatError, UnverifiedSignatureError
        from securesystemslib.signer import Signature, SSlibKey

        key = SSlibKey.from_crypto(self.key)
        try:
            payload = base64.b64decode(envelope["payload"], validate=True)
            # Which key signed is for the signature to show, not for its keyid, which anyone can write.
            signatures = [base64.b64decode(row["sig"], validate=True).hex() for row in envelope["signatures"]]
            body = Envelope(payload, envelope["payloadType"], {}).pae()
        except (KeyError, TypeError, AttributeError, ValueError, binascii.Error, FormatError):
            raise UserError(f"{where}: not a DSSE envelope; export the statement again") from None
        for value in signatures:
            try:
                key.verify_signature(Signature(key.keyid, value), body)
            except UnverifiedSignatureError:
                continue
            if envelope["payloadType"] != PAYLOAD:
                raise UserError(f"{where}: signs {envelope['payloadType']}, and {PAYLOAD} is needed; export it again")
            return payload
        raise UserError(
            f"{where}: not signed by {self.path}, or changed since; ask the signer for the key and the statement"
        )

    def check_folder(self, folder: Path, signature: Path) -> None:
        """Verify model-signing's signature of a checkpoint. UserError where it is not of this folder and key."""
        from cryptography.exceptions import InvalidSignature
        from model_signing import verifying

        try:
            config = verifying.Config().use_elliptic_key_verifier(public_key=self.path)
            config.set_hashing_config(_hashing(folder)).verify(folder, signature)
        except (ValueError, InvalidSignature, AttributeError, KeyError, TypeError) as error:  # the last: parts missing
            said = " ".join(str(error).split()) or type(error).__name__
            raise UserError(f"{signature}: model-signing refuses {folder} ({said}); do not use it") from None


def _hashing(folder: Path) -> Any:
    """All files of a folder for model-signing; links too where it has some, as DVC may link its cache."""
    from model_signing import hashing

    links = any(path.is_symlink() for path in folder.rglob("*"))
    return hashing.Config().set_ignored_paths(paths=[], ignore_git_paths=False).set_allow_symlinks(links)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(f"{path}: no such key; make one: {MAKE}") from None


def _check_curve(key: Any, path: Path) -> None:
    curve = getattr(getattr(key, "curve", None), "name", None)
    if curve not in CURVES:
        kind = f"of curve {curve}" if curve else type(key).__name__.lstrip("_")
        raise UserError(
            f"{path}: the key is {kind}, and model-signing takes EC P-256, P-384 or P-521; make one: {MAKE}"
        )
