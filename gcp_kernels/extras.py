"""How to install the packages that only a part of this one needs."""


def how_to_install(*extras: str) -> str:
    """Give the command that installs extras of pyproject.toml, from a checkout: the package is in no index."""
    return f'pip install --no-build-isolation ".[{",".join(extras)}]" in a checkout of the repository'
