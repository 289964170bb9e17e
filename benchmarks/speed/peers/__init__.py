"""What ours is compared with, where a package does not give it."""
