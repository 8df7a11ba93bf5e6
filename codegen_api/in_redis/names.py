"""Names in Redis: whoever reads them learns of no user, token or request."""

import hashlib
import hmac


class Names:
    """Names that begin with ``prefix``; what they are about is hidden with ``key``."""

    def __init__(self, prefix: str, key: bytes) -> None:
        self._prefix = prefix
        self._key = key

    def of(self, kind: str, *about: str) -> str:
        """The key of what is kept about something."""
        text = "\0".join(about).encode(errors="surrogatepass")
        return f"{self._prefix}{kind}:{{{hmac.new(self._key, text, hashlib.sha256).hexdigest()[:32]}}}"
