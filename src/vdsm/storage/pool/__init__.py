"""The storage pool and its manager (SPM): its domains, their master, and the tasks."""
