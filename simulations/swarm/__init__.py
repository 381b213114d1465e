"""The swarm workload: crowds of ``beiran.swarm`` cores that pull one image."""
