"""What the file itself tells, beside what a network says of its pixels: never part of a score."""
