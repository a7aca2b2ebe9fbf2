"""A fit as values: prepare -> session -> result.

Nothing here writes an attribute of an estimator: a fit that fails changes nothing.
"""
