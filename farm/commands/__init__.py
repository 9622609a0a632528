"""One file per command: ``add(commands)`` declares its arguments and names its ``run(args)`` as
the work to do.

A command parses and prints, nothing else. Its module imports nothing heavy at the top, so that ``farm --help`` stays
quick; ``run`` imports what it needs.
"""
