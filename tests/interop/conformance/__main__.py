"""``python -m tests.interop.conformance``: see `runner`."""

import sys

from .runner import main

sys.exit(main())
