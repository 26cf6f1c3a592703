# A package of its own: torch-fidelity installs one named tests, too, which spawned processes would find instead.
