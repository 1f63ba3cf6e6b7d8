"""A fault at every write, rename and fsync of a tiny run and a tiny sweep."""
