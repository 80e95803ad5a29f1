"""Benchmarks of the operations; installed as ``pyeqgan.benchmarks`` so that ``pyeqgan bench`` runs anywhere."""
