"""Why a network said what it said: maps of an image, by nine methods, and how faithful they are."""
