"""What the papers measured, measured again on a small network: training, corruptions, claims, plots and a report."""
