"""HTML of the explorer's parts. Everything goes through :mod:`grace_app.page.html`, which escapes by default."""
