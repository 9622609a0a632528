"""Reward models: training, scoring."""
