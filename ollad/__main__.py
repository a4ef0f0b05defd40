"""``python -m ollad``."""

import sys

from ollad.cli import main

sys.exit(main())
