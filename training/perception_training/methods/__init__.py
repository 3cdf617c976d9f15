"""Published methods, one file each: network, loss terms, and what a step does. They know data and losses, not the engine that trains them."""
