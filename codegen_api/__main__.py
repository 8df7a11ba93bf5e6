"""``python -m codegen_api``: the command line of ``serve``."""

from codegen_api.front_door import main

if __name__ == "__main__":
    main()
