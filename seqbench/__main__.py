"""`seqbench` and `python -m seqbench`."""

import os
import sys


def main() -> None:
    """Run the command line; an error becomes a message, a hint and an exit code."""
    try:
        from seqbench.cli import app
        from seqbench.errors import SeqbenchError

        try:
            app(prog_name="seqbench")
        except SeqbenchError as error:
            if os.environ.get("SEQBENCH_DEBUG"):
                raise
            from seqbench import console

            console.fail(error.message, error.hint)
            sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
