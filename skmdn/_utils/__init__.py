"""Interfaces to NumPy, scikit-learn and the operating system."""
