"""The applications of a checkout: demo, training and the reproduction of the papers' claims."""
