"""What is kept of runs and trials: results, run folders, trial records, row-by-row predictions."""
