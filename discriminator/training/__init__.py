"""Training a detector by itself: what it is shown, how it learns, and which of its states is kept."""
