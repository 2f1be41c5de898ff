"""The ``grace`` command.

Thin: parses, calls the library, prints. With ``--json`` one document on stdout, progress on stderr.
"""

from __future__ import annotations

import os
import sys

import typer

from grace_cli.app import app_command
from grace_cli.bench import bench_app
from grace_cli.demo import demo_app
from grace_cli.encode import encode_command
from grace_cli.eval import eval_app
from grace_cli.explain import explain_command
from grace_cli.index import index_app
from grace_cli.map import map_entry
from grace_cli.mend import mend_app
from grace_cli.models import models_command
from grace_cli.reasons import reasons_command
from grace_cli.search import search_command
from grace_cli.serve import serve_command
from grace_cli.train import train_command
from grace_core.errors import GraceError

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False, help="GRACE Explorer.")
app.add_typer(index_app, name="index")
app.add_typer(eval_app, name="eval")
app.add_typer(mend_app, name="mend")
app.add_typer(demo_app, name="demo")
app.add_typer(bench_app, name="bench")
app.command("app")(app_command)
app.command("search")(search_command)
app.command("explain")(explain_command)
app.command("encode")(encode_command)
app.command("train")(train_command)
app.command("map")(map_entry)
app.command("reasons")(reasons_command)
app.command("serve")(serve_command)
app.command("models")(models_command)


def main() -> None:
    """Run the command; what a user must read comes as one line, with exit status 2."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    try:
        app()
    except GraceError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        message = f"{str(error.filename)[:300]}: {error.strerror}" if error.filename else str(error)
        print(
            f"error: {message}; check the path, its permissions and the room on the disk".replace("\n", " "),
            file=sys.stderr,
        )
        sys.exit(2)
    except KeyboardInterrupt:
        print("stopped; what is finished is kept", file=sys.stderr)
        sys.exit(130)
