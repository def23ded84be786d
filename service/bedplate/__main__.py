"""`python -m bedplate`: the command without its script."""

import sys

from bedplate.commands.cli import main

sys.exit(main())
