"""Real threads, locks and polls also under monkey patching, and what wakes a thread of ours."""
