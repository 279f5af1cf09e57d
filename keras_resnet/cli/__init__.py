"""The command line: parses arguments, makes one call, prints a few lines."""

import os
import sys

import click

from keras_resnet import onednn
from keras_resnet.cli.base import complain, group
from keras_resnet.errors import Error

INTERRUPTED = 75  # EX_TEMPFAIL: the same command, run again, continues


def program() -> None:
    """The entry point of `keras-resnet`: prepares the environment, then calls `main`.

    TensorFlow logs to file descriptor 2 during its import, before its log settings take
    effect, and libjpeg logs there for every unusual image. Therefore the output of
    native libraries is discarded, and stderr has only the lines of the command line.
    TF_CPP_MIN_LOG_LEVEL=0 in the environment shows all output.
    """
    onednn.choose()
    if os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3") != "0":
        sys.stderr = os.fdopen(os.dup(2), "w", buffering=1, errors="backslashreplace")
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    main()


def main() -> None:
    """Runs the command line and exits.

    An error prints one line on stderr and exits with 1, wrong usage exits with 2, and
    an interruption with 75.
    """
    try:
        # not group.main(), which prints its own message when it is interrupted
        with group.make_context("keras-resnet", sys.argv[1:]) as context:
            group.invoke(context)
    except click.exceptions.Exit as done:  # --help, --version
        sys.exit(done.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort) as error:
        default = "interrupted; run the same command again to continue"
        complain(str(error) or default)
        sys.exit(INTERRUPTED)
    except Error as error:
        complain(error)
        sys.exit(1)
    except OSError as error:
        complain(f"{error.filename or ''}: {error.strerror or error}")
        sys.exit(1)
