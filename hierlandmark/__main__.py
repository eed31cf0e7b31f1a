"""`python -m hierlandmark` is the `hierlandmark` command."""

from hierlandmark.cli import app

app()
