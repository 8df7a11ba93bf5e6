"""The front door of a checkout: ``python run_server.py --sandbox``."""

from codegen_api.front_door import main

if __name__ == "__main__":
    main()
