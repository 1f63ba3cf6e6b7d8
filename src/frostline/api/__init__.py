"""What commands and programs ask for: runs, sweeps, forecasts, re-runs, models, rows in memory."""
