"""Files in and out: scans, label maps, transforms and the folders they come in."""
