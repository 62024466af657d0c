"""From figures to what a person looks at: terminal, plots, results page."""
