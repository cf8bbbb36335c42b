"""Checking a store against itself, and repairing what follows from its ledger."""
