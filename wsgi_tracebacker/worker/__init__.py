"""What lives in the serving process; standard library only."""
