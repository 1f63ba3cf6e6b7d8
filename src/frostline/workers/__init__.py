"""Worker processes that take one job after another."""
