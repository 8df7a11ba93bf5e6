"""Who is calling: from what a request carries to a ``Caller``."""
