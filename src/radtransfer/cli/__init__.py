"""The command line: one command for each step, and the ones around them.

Everything heavy is imported by the command that needs it: ``radtransfer --help`` loads neither torch nor kfp.
"""

from __future__ import annotations

import os
import sys
from typing import NoReturn

from radtransfer.cli import cluster, datasets, models, schedule, steps
from radtransfer.cli.explain import explain
from radtransfer.cli.runs import app
from radtransfer.cli.tune import tune
from radtransfer.errors import RadtransferError

app.command()(tune)
app.add_typer(cluster.app)
app.add_typer(schedule.app, name="schedule")
app.add_typer(steps.app)
app.command()(explain)
app.add_typer(datasets.app, name="datasets")
app.add_typer(models.app, name="models")


def main() -> None:
    """Entry point: what the user can put right is one message on standard error and exit code 2."""
    try:
        try:
            app()
        finally:
            sys.stdout.flush()  # here, where a reader that has left (`| head -1`) can be met; at exit Python complains
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except RadtransferError as error:
        print(f"radtransfer: error: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:  # a folder where a file is expected, no permission, a full disk
        where = f"{error.filename}: " if error.filename else ""
        print(f"radtransfer: error: {where}{error.strerror or error}; make room or name another path", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        _interrupted()
    except SystemExit as ended:  # Typer's own answer to Ctrl-C says nothing
        if ended.code == 130 and not isinstance(ended, cluster.Told):
            _interrupted()
        raise


def _interrupted() -> NoReturn:
    print("radtransfer: interrupted; a `run` goes on where it was when it is started again", file=sys.stderr)
    sys.exit(130)
