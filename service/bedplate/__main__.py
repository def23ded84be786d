"""`python -m bedplate`: the command without its script."""

import sys

from bedplate.cli import main

sys.exit(main())
