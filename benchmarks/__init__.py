"""What the engine costs: ``python -m benchmarks``. See docs/performance.md."""
