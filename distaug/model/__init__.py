"""The network: built from its section of the job, and its moving average."""
