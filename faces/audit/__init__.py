"""What a set of faces gives away and looks like: leak gates, copies, exploration."""
