"""Bad clients, kills, full disks."""
