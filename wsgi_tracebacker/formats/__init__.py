"""Values of the model as bytes and lines, and back: pure, and used by the worker and the reader alike."""
