"""Annotation: pools, prompts, parsing, the engine and its ledger, noise."""
