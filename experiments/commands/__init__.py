"""The commands of ``python -m experiments``: their options, what they print, and how they end."""
