"""Tests, in rooms by what they are of; see CONTRIBUTING.md."""
