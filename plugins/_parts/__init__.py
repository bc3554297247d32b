"""What disks are put together of: files, content that is computed, and all of it in a row."""
