"""`python -m cstn_lib` is `cstn`; also what `accelerate launch -m cstn_lib` starts."""

from cstn_lib.cli import main

if __name__ == "__main__":
    main()
