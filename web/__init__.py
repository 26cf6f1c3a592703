"""The web page and the HTTP API over a detector."""
