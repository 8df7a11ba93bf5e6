"""``python -m codegen_api``: the command line of ``serve``."""

from codegen_api.serve import main

if __name__ == "__main__":
    main()
