"""Why is a request where it is: what it waits for, and who has it."""
