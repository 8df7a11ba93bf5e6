"""``python -m codegen_api.validate``: the smoke checks, without a checkout of the repository."""

from codegen_api.validate import main

if __name__ == "__main__":
    raise SystemExit(main())
