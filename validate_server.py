"""Smoke checks against a running gateway: ``python validate_server.py http://127.0.0.1:8000``."""

from codegen_api.validate import main

if __name__ == "__main__":
    raise SystemExit(main())
