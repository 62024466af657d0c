"""What every store must show, whatever it is made of: one table of them, and tests over the table."""
