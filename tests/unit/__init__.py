"""Tests of the pure modules, and of the session over a store in memory."""
