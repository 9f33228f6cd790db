"""The sizes of slabs and panels: the memory of one sample's working matrices where these do not fit on chip."""

# A, V, and three in which W_k, Y_k and a free one take turns.
MATRICES = 5
# float16 planes of a matrix: a high one, and a low one that holds what the first rounded away.
PLANES = 2


def slab_elements(side: int, tangents: bool) -> int:
    """Count the float16 elements of a slab for matrices of (side, side) elements, and as many for their tangents."""
    return (2 if tangents else 1) * MATRICES * PLANES * side * side


def panel_elements(c: int, side: int) -> int:
    """Count the float16 elements of a panel, a (c, side) matrix beside the slab on the side of the positions."""
    return PLANES * c * side
