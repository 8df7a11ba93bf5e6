"""``python -m codegen_api.validate``: the smoke checks, also where there is no checkout."""

from codegen_api.validate import main

if __name__ == "__main__":
    raise SystemExit(main())
