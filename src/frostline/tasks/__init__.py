"""Tasks, one module each; every module in this folder is found."""
