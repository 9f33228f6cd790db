"""Every operation, with the name of its room: the folder that holds its code."""

ROOMS = {
    "isqrt_pool": "isqrt_pool",
    "covariance_pool": "covariance_pool",
    "newton_schulz_sqrt": "newton_schulz_sqrt",
    "triu_vec": "triangle",
    "triu_unvec": "triangle",
    "newton_schulz_inverse_sqrt": "newton_schulz_inverse_sqrt",
    "matrix_power": "matrix_function",
    "matrix_log": "matrix_function",
    "power_pool": "spectral_pool",
    "log_pool": "spectral_pool",
}
OPERATIONS = tuple(ROOMS)
