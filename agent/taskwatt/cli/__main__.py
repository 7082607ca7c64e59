"""`python -m taskwatt.cli`: the same as the command `taskwatt`."""

from __future__ import annotations

import sys

from taskwatt.cli.main import main

sys.exit(main())
