"""Authentication: from what a request carries to a ``Caller``."""
