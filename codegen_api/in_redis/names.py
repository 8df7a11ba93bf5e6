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
        return f"{self._prefix}{kind}:{{{self.hidden(*about)}}}"

    def hidden(self, *about: str) -> str:
        text = "\0".join(about)
        return hmac.new(self._key, text.encode(errors="surrogatepass"), hashlib.sha256).hexdigest()[:32]
