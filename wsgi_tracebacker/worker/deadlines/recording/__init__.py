"""The flight recorder: where the time of a slow request goes."""
