"""Measurements: does a query find the right messages, does an answer read them, how well is text predicted."""
