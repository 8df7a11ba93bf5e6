"""``python -m codegen_api``: the front door."""

from codegen_api.serve import main

if __name__ == "__main__":
    main()
