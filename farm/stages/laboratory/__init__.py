"""The over-optimization laboratory: its settings and its steps, in the order of `farm/laboratory.py`."""
