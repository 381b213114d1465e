"""``python -m simulations``."""

import sys

from simulations.commands.main import main

if __name__ == "__main__":
    sys.exit(main())
