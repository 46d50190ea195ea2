"""Simulations with seeds, on the portal's own functions."""
