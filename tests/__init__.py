"""A package, so that no installed one called `tests` (torch-fidelity brings one) is taken for it in a new process."""
