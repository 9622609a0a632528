"""The offline world: instructions, writers, gold reward, simulated humans and annotators, the scripted judge."""

# Raised when texts, gold, tastes or the judge change: steps and answers of another version are then not reused.
VERSION = 1
