"""The command line."""

import os
import sys

import click

from keras_resnet import onednn
from keras_resnet.cli.base import complain, group
from keras_resnet.errors import Error

INTERRUPTED = 75  # EX_TEMPFAIL: the same command resumes


def program() -> None:
    """The program `keras-resnet`: sets what TensorFlow reads when it is imported.

    TensorFlow logs to file descriptor 2 while it is imported, before its own settings
    take effect, and libjpeg logs unusual images there. Therefore native libraries are
    silenced, and stderr has only the lines of the command line. With
    TF_CPP_MIN_LOG_LEVEL=0 in the environment everything is shown.
    """
    onednn.choose()
    if os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3") != "0":
        sys.stderr = os.fdopen(os.dup(2), "w", buffering=1, errors="backslashreplace")
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    main()


def main() -> None:
    """Runs the command line; an error is one line on stderr, with exit code 1."""
    try:
        # not group.main, which prints a line of its own when it is interrupted
        with group.make_context("keras-resnet", sys.argv[1:]) as context:
            group.invoke(context)
    except click.exceptions.Exit as done:  # --help, --version
        sys.exit(done.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort) as error:
        usual = "interrupted; the same command again goes on from what is whole"
        complain(str(error) or usual)
        sys.exit(INTERRUPTED)
    except Error as error:
        complain(error)
        sys.exit(1)
    except OSError as error:
        complain(f"{error.filename or ''}: {error.strerror or error}")
        sys.exit(1)
