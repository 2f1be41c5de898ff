"""The Gradio explorer: a thin layer over :mod:`grace_core` that shows why a document was retrieved."""

import os

# before gradio is imported: it reads this once
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
