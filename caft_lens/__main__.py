"""`python -m caft_lens` is `caft-lens`."""

from caft_lens.cli import app

if __name__ == "__main__":
    app(prog_name="caft-lens")
