"""The encryption of tickets: AES-256-GCM, with a key derived from a secret for one purpose."""

import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

_NONCE_BYTES = 12


class Box:
    """Encrypts and decrypts with the key for ``purpose`` that is derived from ``secret``."""

    def __init__(self, secret: str, purpose: bytes) -> None:
        self._cipher = AESGCM(HKDF(SHA256(), 32, salt=None, info=purpose).derive(secret.encode()))

    def encrypt(self, content: bytes) -> bytes:
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, content, None)

    def decrypt(self, sealed: bytes) -> bytes | None:
        """None if this was not encrypted with the same key, or was altered."""
        try:
            return self._cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], None)
        except InvalidTag:
            return None
