"""The command line: arguments, one call, a few lines of output."""

import sys

import click

import keras_resnet
from keras_resnet.cli import models, pictures, serving, training  # noqa: F401 commands
from keras_resnet.cli.base import complain, group
from keras_resnet.errors import DataError, DemoError, ModelError, RecipeError, RunError

INTERRUPTED = 75  # EX_TEMPFAIL: the same command again goes on


def main():
    """Runs the command line; failures are one line on stderr and exit code 1."""
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
    except (
        DataError,
        RecipeError,
        ModelError,
        RunError,
        DemoError,
        keras_resnet.WeightsError,
    ) as error:
        complain(error)
        sys.exit(1)
    except OSError as error:
        complain(f"{error.filename or ''}: {error.strerror or error}")
        sys.exit(1)
