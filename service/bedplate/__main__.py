"""`python -m bedplate` runs the command line without its installed script."""

import sys

from bedplate.commands.cli import main

sys.exit(main())
