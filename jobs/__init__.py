"""Entry points: one module is one job, and the only place that knows Ray."""
