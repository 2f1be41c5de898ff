"""``python -m grace_cli``: the same as ``grace``."""

from grace_cli.main import main

if __name__ == "__main__":
    main()
