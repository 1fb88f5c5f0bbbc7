"""Real threads, locks and polls also under monkey patching, and a way to wake a thread of ours."""
