"""``python -m netstack``: the same as the `netstack` command."""

import sys

from netstack.cli import main

sys.exit(main())
