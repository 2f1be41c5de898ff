"""``python -m app``: the same as ``grace app``."""

import sys

from app.command import main

if __name__ == "__main__":
    sys.argv[:1] = ["grace", "app"]
    main()
