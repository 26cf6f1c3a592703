"""Results for people: pages, plots and lines of a terminal, one file a page."""
