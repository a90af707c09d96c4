"""``python -m netstack``: the command line."""

import sys

from netstack.cli import main

if __name__ == "__main__":
    sys.exit(main())
