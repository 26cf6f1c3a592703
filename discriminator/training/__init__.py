"""Training a detective by itself: what it is shown, how it learns, and which of its states is kept."""
