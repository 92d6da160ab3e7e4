"""`python -m cstn_lib` is `cstn`."""

import sys


def main() -> None:
    """Run `cstn_lib.cli`; a package that is not installed is one line, not a traceback."""
    try:
        from cstn_lib import cli

        cli.main()
    except ModuleNotFoundError as error:
        if (error.name or "cstn_lib").startswith("cstn_lib"):
            raise
        extras = "pip install 'cstn_lib[notebooks,reproduce]'"
        print(
            f"cstn: {error.name} is not installed; expected the extras: {extras}", file=sys.stderr
        )
        sys.exit(2)


if __name__ == "__main__":
    main()
