"""`seqbench` and `python -m seqbench`."""

import io
import os
import sys


def main() -> None:
    """Run the command line; an error becomes a message, a hint and an exit code."""
    try:
        from seqbench import signals
        from seqbench.cli import app
        from seqbench.errors import explained

        signals.install()

        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="replace")  # an encoding without ✓ shows ? instead
        try:
            app(prog_name="seqbench")
        except Exception as error:
            words = explained(error)
            if words is None or os.environ.get("SEQBENCH_DEBUG"):
                raise
            from seqbench import console

            console.fail(words.message, words.hint)
            sys.exit(words.exit_code)
    except KeyboardInterrupt as stop:
        sys.exit(getattr(stop, "exit_code", 130))


if __name__ == "__main__":
    main()
