"""Rows of data sets: read, labelled, split, tokenized, kept as tables. Importing this package imports nothing heavy."""
