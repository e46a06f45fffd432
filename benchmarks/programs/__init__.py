"""Programs that each measure one workload in a process of their own and print it as JSON."""
