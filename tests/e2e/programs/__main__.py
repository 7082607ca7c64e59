import sys

from tests.e2e.programs import main

sys.exit(main())
