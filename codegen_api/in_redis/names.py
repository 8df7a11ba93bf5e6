"""Names of keys in Redis, which reveal no user, token or request."""

import hashlib
import hmac


class Names:
    """Makes names that begin with ``prefix`` and hide their subject in a digest keyed with ``key``."""

    def __init__(self, prefix: str, key: bytes) -> None:
        self._prefix = prefix
        self._key = key

    def of(self, kind: str, *about: str) -> str:
        """The name for data of this ``kind`` about a subject."""
        text = "\0".join(about).encode(errors="surrogatepass")
        return f"{self._prefix}{kind}:{{{hmac.new(self._key, text, hashlib.sha256).hexdigest()[:32]}}}"
