"""`python -m treesearch`: the command line. Knows nothing else."""

from treesearch.cli import app

if __name__ == "__main__":
    app()
