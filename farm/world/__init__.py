"""The offline world: instructions, writers, the gold reward, simulated humans and annotators, the scripted judge."""
