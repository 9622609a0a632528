"""Instructions and their splits: the offline world's, or those of a file."""
