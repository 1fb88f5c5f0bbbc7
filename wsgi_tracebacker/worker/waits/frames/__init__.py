"""What frames of other threads say of a wait, without running anybody's code."""
