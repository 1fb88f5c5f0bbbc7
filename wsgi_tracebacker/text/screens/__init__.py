"""What only the operator's command shows: tables, the overview, the places below it, the page. No worker imports it."""
