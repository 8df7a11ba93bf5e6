"""HTTP, between the server and the dialects: requests, responses and streams."""
