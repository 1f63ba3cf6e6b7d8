"""What a trained model makes of new rows: labels, and vectors."""
