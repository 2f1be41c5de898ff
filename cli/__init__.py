"""The ``grace`` command: one module a noun."""
