"""This process's way to the store."""
