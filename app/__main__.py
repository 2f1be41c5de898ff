"""``python -m grace_app``: the same as ``grace app``."""

import sys

from grace_cli.main import main

if __name__ == "__main__":
    sys.argv[:1] = ["grace", "app"]
    main()
