"""Programs that try for minutes what tests try once. Run by hand."""
