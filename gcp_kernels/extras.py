"""How the packages are installed that this one needs only for a part of it."""


def how_to_install(*extras: str) -> str:
    """The command for extras of pyproject.toml. The package is in no index, so it is given from its checkout."""
    return f'pip install --no-build-isolation ".[{",".join(extras)}]" in a checkout of the repository'
