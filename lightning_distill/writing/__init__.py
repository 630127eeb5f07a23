"""Files and folders that are written as a whole or not at all, and know when they are not as they were."""
