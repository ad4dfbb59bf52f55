"""`python -m promptcot_jax STAGE ...` is the `promptcot` command."""

import sys

from promptcot_jax.run import cli

if __name__ == "__main__":
    sys.exit(cli.main())
