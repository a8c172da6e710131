"""`python -m atlasmith.cli`."""

import sys

from atlasmith.cli.main import main

sys.exit(main())
