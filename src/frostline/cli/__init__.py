"""Owns: the command line - argv -> spec -> recorder -> run. The only place where objects meet."""
