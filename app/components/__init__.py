"""HTML of the explorer's parts. Everything goes through :mod:`app.components.html`, which escapes by default."""
